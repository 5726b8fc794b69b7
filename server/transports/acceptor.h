// The listening sockets: one port for both protocols.
//
// Every connection is accepted here, counted against a cap, and handed to the transport that speaks
// what its first bytes say: the HTTP/2 preface is gRPC, anything else HTTP/1.1.  Running out of
// descriptors is waited out.
#pragma once

#include <absl/status/status.h>
#include <absl/time/time.h>

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "server/transports/connection.h"
#include "server/transports/io_threads.h"

namespace millrace {

struct AcceptorOptions {
  // "127.0.0.1:8000", "[::1]:8000", "localhost:0" (any free port), "0.0.0.0:8000",
  // "unix:/run/millrace.sock".
  std::vector<std::string> binds;

  // Connections at once; one more is closed as soon as it is accepted.
  int max_connections = 1024;

  // For a client to send its first bytes.
  absl::Duration first_bytes_timeout = absl::Seconds(10);
};

// Listen(), Start() and Stop() belong to one thread.
class Acceptor {
 public:
  // Called on the connection's thread.  Must not block.
  using Handler = std::function<void(Connection)>;

  // The threads must outlive it; handlers are called from them.
  Acceptor(AcceptorOptions options, IoThreads& threads, Handler on_grpc, Handler on_http);
  ~Acceptor();

  // Binds and listens everywhere, or nowhere.  An error names the address and what to do.
  absl::Status Listen();

  // Where it listens, in the order of the options, with the ports that the system chose.
  const std::vector<std::string>& addresses() const { return addresses_; }

  // Accepts from now on.
  void Start();

  // Closes the listening sockets and removes those of unix paths.  Connections stay.  Idempotent.
  void Stop();

  // Connections now.  Thread-safe.
  int connections() const { return *connections_; }

 private:
  class Listener;

  const AcceptorOptions options_;
  IoThreads& threads_;
  const Handler on_grpc_;
  const Handler on_http_;
  std::vector<std::shared_ptr<Listener>> listeners_;  // each also owned by its accept loop
  std::vector<std::string> addresses_;

  // Shared with the connections, which may end after the acceptor.
  const std::shared_ptr<std::atomic<int>> connections_;
};

}  // namespace millrace
