// gRPC calls as events of a completion queue, each queue with one thread.
//
// Every method is served as a stream of raw messages either way, whatever its proto says: a unary
// call is one message up and one down.  So one class carries every call, and a handler says what a
// method does.
//
// One thread a queue, because gRPC hands the duty to poll from thread to thread at each event: two
// threads on one queue spend more on waking each other than on the work.  But gRPC reads on from a
// connection for as long as bytes are there, so that one client could keep the thread from all
// others, and flood it with calls that nobody counts.  So a second thread watches, and steps in
// while the first is busy and gets no event done.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>
#include <absl/functional/function_ref.h>
#include <absl/time/time.h>
#include <grpcpp/alarm.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "server/core/mutex.h"
#include "server/transports/grpc/connections.h"

namespace millrace {

class Rpc;
class RpcQueue;

// What a method does with one call.  Owned by the call, and called by its queue's threads, which
// must not be kept for long; one method at a time.
class RpcHandler {
 public:
  virtual ~RpcHandler() = default;

  // The call has begun; nothing is read yet.
  virtual void OnStart() = 0;

  // What Rpc::Read() asked for; `message` stays until it is cleared or the next Read().
  virtual void OnMessage(grpc::ByteBuffer& message) = 0;

  // In place of OnMessage(): the client has sent its last message, or is gone.
  virtual void OnEnd() {}

  // Rpc::Write() has been done; false: the client is gone.
  virtual void OnWritten(bool) {}

  // The client is gone, or has cancelled the call; Rpc::Finish() is still due.
  virtual void OnCancel() {}
};

using MakeRpcHandler = std::function<std::unique_ptr<RpcHandler>(Rpc&)>;

// What is served: by path, "/package.Service/Method".
using RpcMethods = absl::flat_hash_map<std::string, MakeRpcHandler>;

// What holds for every call.
struct RpcLimits {
  GrpcConnections& connections;
  uint64_t max_metadata_bytes;
};

// One call.  Lives as long as gRPC has something of it, or somebody a shared pointer.  Public
// methods are thread-safe; one Read() and one Write() at a time.
class Rpc : public std::enable_shared_from_this<Rpc> {
 public:
  explicit Rpc(RpcQueue& queue) : queue_(queue) {}

  // Without effect after Finish().
  void Read();
  void Write(grpc::ByteBuffer message);

  // Ends the call; the first of them counts.
  void Finish(const grpc::Status& status);
  void FinishWith(grpc::ByteBuffer message);  // and OK

  // Before the end: a field of the trailing metadata.  One thread's.
  void AddTrailingMetadata(const char* key, const std::string& value);

  bool finished();

  // Cancels the call when nothing that is written moves for `period`, until it is done.  Once, and
  // before Finish().
  void CancelUnlessWritten(absl::Duration period);

  absl::Time deadline() const;

 private:
  friend class RpcQueue;

  // An operation of gRPC's; it keeps the call while it is under way.
  struct Operation {
    void (Rpc::*const on_done)(bool ok);
    std::shared_ptr<Rpc> rpc = nullptr;
  };

  void* Begin(Operation& operation);
  absl::Status Enter();
  void FinishLocked(absl::FunctionRef<void(void* tag)> finish);
  void SetAlarm() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  void OnAccepted(bool ok) ABSL_EXCLUSIVE_LOCKS_REQUIRED(event_);
  void OnRead(bool ok) ABSL_EXCLUSIVE_LOCKS_REQUIRED(event_);
  void OnWritten(bool ok);
  void OnFinished(bool ok);
  void OnOver(bool ok) ABSL_EXCLUSIVE_LOCKS_REQUIRED(event_);
  void OnAlarm(bool expired);
  void TellIfCancelled() ABSL_EXCLUSIVE_LOCKS_REQUIRED(event_);

  RpcQueue& queue_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_{&context_};
  Operation accept_{&Rpc::OnAccepted};
  Operation read_{&Rpc::OnRead};
  Operation write_{&Rpc::OnWritten};
  Operation finish_{&Rpc::OnFinished};
  Operation over_{&Rpc::OnOver};
  Operation alarmed_{&Rpc::OnAlarm};
  grpc::ByteBuffer incoming_;
  GrpcConnections::Place place_;
  std::unique_ptr<RpcHandler> handler_;

  // Held while an event is handled.
  Mutex event_;
  bool accepted_ ABSL_GUARDED_BY(event_) = false;
  bool heard_ ABSL_GUARDED_BY(event_) = false;  // a message came
  bool is_over_ ABSL_GUARDED_BY(event_) = false;

  // After event_.
  Mutex mu_;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;  // Finish() was called
  bool sent_ ABSL_GUARDED_BY(mu_) = false;      // and is done
  bool moved_ ABSL_GUARDED_BY(mu_) = false;     // something was written since the alarm was set
  absl::Duration period_ ABSL_GUARDED_BY(mu_);
  grpc::Alarm alarm_ ABSL_GUARDED_BY(mu_);
};

// Accepts calls and runs their events on a thread of its own, and at need on a second.
class RpcQueue {
 public:
  // All of them must outlive it; `service` is registered with the server that has `queue`.
  RpcQueue(std::unique_ptr<grpc::ServerCompletionQueue> queue, grpc::AsyncGenericService& service,
           const RpcMethods& methods, RpcLimits limits);

  // The server has been shut down.  Ends the thread when the last call is over.
  ~RpcQueue();

  // The server has been started.
  void Start();

 private:
  friend class Rpc;

  // What the thread has done, and the processor's time that it took.
  struct Progress {
    uint64_t handled;  // events
    absl::Duration busy;

    // Busy all the time, and nothing done.
    bool IsStuckSince(const Progress& last) const;
  };

  void Accept();
  void Run();
  void Handle(void* tag, bool ok);
  void Watch();
  Progress Look();
  bool Sleep();
  void Help();

  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  grpc::AsyncGenericService& service_;
  const RpcMethods& methods_;
  const RpcLimits limits_;
  std::thread thread_;
  std::thread watch_;
  std::atomic<uint64_t> handled_ = 0;  // events, by thread_

  Mutex mu_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace millrace
