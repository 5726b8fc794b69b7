// The connections that gRPC serves, watched from outside it.
//
// gRPC 1.51 tells nobody when a connection ends, keeps no count of the calls on one, and has no way
// to close one.  So each socket has a second descriptor here, which does no work but to report the
// end and, at need, to cause it.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include <cstdint>
#include <memory>
#include <string>

#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>

#include "server/core/clock.h"
#include "server/core/mutex.h"

namespace millrace {

struct GrpcConnectionLimits {
  // Calls at once on one connection.
  int max_calls = 1000;

  // Calls that a client may cancel before their first message, in each period; beyond it the
  // connection is closed.
  int max_early_resets = 200;
  absl::Duration reset_period = absl::Seconds(10);
};

// Thread-safe.  Connections are known by their peer, "127.0.0.1:40312"; those over unix sockets
// have no name of their own and are only watched.
class GrpcConnections {
  struct State;
  struct Calls;

 public:
  // One call's place on its connection; gives it back when destroyed.  May outlive the
  // GrpcConnections.
  class Place {
   public:
    Place() = default;

    // Counts the call as cancelled before its first message, and closes the connection if these are
    // too many.
    void CountEarlyReset();

   private:
    friend class GrpcConnections;
    Place(std::shared_ptr<Calls> calls, std::shared_ptr<State> connection);
    std::shared_ptr<State>
        connection_;  // shared by the table and the connection's calls; null over a unix socket
    std::shared_ptr<void> counted_;
  };

  // `io` must outlive it, and run for ends to be noticed.
  GrpcConnections(GrpcConnectionLimits limits, boost::asio::io_context& io,
                  const Clock& clock = RealClock());
  ~GrpcConnections();

  // Watches a socket that gRPC is about to get; `fd` stays the caller's.  `place` is dropped when
  // it ends. RESOURCE_EXHAUSTED when there is no descriptor for that.
  absl::Status Add(absl::string_view peer, int fd, std::shared_ptr<void> place);

  // A place for a call from `grpc_peer`, as grpc::ServerContext::peer() spells it.
  // RESOURCE_EXHAUSTED at max_calls.
  absl::StatusOr<Place> Enter(absl::string_view grpc_peer);

  // Blocks until no call has a place, at most for `timeout`.
  void WaitUntilEmpty(absl::Duration timeout);

 private:
  void Watch();
  void RemoveEnded();

  const GrpcConnectionLimits limits_;
  const Clock& clock_;
  const std::shared_ptr<Calls> calls_;           // shared with the places
  boost::asio::posix::stream_descriptor epoll_;  // readable when a connection has ended

  Mutex mu_;
  absl::flat_hash_map<int, std::shared_ptr<State>> by_fd_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<std::string, std::shared_ptr<State>> by_peer_ ABSL_GUARDED_BY(mu_);
};

}  // namespace millrace
