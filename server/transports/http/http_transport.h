// HTTP/1.1: plain POSTs of tensors, and what an operator asks.
//
//   POST /predict                                    the default model
//   POST /v1/models/NAME[/versions/VERSION]:predict  any model
//   GET  /v1/models, /v1/models/NAME                 what can be called
//   GET  /healthz, /readyz                           200 while alive; while ready, else 503
//
// A client that closes its sending side before it has the answer is taken to have left.
#pragma once

#include <absl/time/time.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>

#include "server/core/engine.h"
#include "server/transports/connection.h"

namespace millrace {

struct HttpOptions {
  // For a whole request header, from its first byte.
  absl::Duration header_timeout = absl::Seconds(10);

  // For the next request on a connection that is kept.
  absl::Duration idle_timeout = absl::Seconds(75);

  // For a client to take some bytes of the answer, again and again until it has all.
  absl::Duration write_timeout = absl::Seconds(30);

  // When a connection is closed while the client still sends, so much is read and thrown away, for
  // so long, for the client to see the answer and not a broken connection.
  uint64_t linger_bytes = 64 << 20;
  absl::Duration linger_timeout = absl::Seconds(2);

  // Bytes received at a time: the most that one connection has of its thread before the others have
  // their turns.  Less costs more: with 16 uploads at once 256 KiB a turn take the server 1.8 times
  // the CPU that 2 MiB do.
  size_t turn_size = 2 << 20;

  // Threads that read and write large JSON texts: one a core, within limits.
  int codec_threads = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 2u, 8u));
};

// Thread-safe.
class HttpTransport {
 public:
  HttpTransport(HttpOptions options, Engine& engine);  // The engine must outlive it.

  // Requires that the threads that run the sessions are stopped, unless there are none.  What is
  // left of sessions may be destroyed later, with the threads, but before the engine.
  ~HttpTransport();

  // Serves requests on the connection until it closes; returns at once.
  void Serve(Connection connection);

  // Closes idle connections, lets sessions end with the request that they are in, and keeps new
  // ones from staying.  Idempotent.
  void Drain();

  // Blocks until every session has ended, at most for `timeout`.
  void WaitUntilClosed(absl::Duration timeout);

 private:
  class Impl;
  const std::shared_ptr<Impl> impl_;  // also owned by its sessions
};

}  // namespace millrace
