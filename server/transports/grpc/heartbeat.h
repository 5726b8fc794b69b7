// Keeps gRPC's threads awake.
//
// After a second without traffic the threads that run gRPC 1.51's callbacks each sleep 100 ms, all
// at the same time (src/cpp/common/completion_queue_cc.cc), so that the next call may wait as long.
// A small call of the server to itself every 200 ms prevents that.
#pragma once

#include <grpcpp/server.h>

#include <memory>
#include <thread>

#include "proto/millrace/v1/prediction.grpc.pb.h"
#include "server/core/mutex.h"

namespace millrace {

// Beats from construction to destruction, on a thread of its own.
class Heartbeat {
 public:
  explicit Heartbeat(grpc::Server& server);  // Must outlive it, and not be shut down before.
  ~Heartbeat();

 private:
  void Run();
  void Beat();

  const std::unique_ptr<v1::PredictionService::Stub> stub_;
  Mutex mu_;
  CondVar changed_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool calling_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace millrace
