// HTTP/1.1: plain POSTs of tensors, and what an operator asks.
//
//   POST /predict                                    the default model
//   POST /v1/models/NAME[/versions/VERSION]:predict  any model
//   GET  /v1/models, /v1/models/NAME                 what can be called
//   GET  /healthz, /readyz                           200 while alive; while ready, else 503
#pragma once

#include <cstddef>
#include <memory>

#include <absl/time/time.h>

#include "server/core/engine.h"
#include "server/transports/connection.h"

namespace millrace {

struct HttpOptions {
  // For a whole request header, from its first byte.
  absl::Duration header_timeout = absl::Seconds(10);

  // For the next request on a connection that is kept.
  absl::Duration idle_timeout = absl::Seconds(75);

  // Bytes asked of the socket at a time.
  size_t read_size = 256 << 10;
};

// Thread-safe.
class HttpTransport {
 public:
  HttpTransport(HttpOptions options, Engine& engine);  // The engine must outlive it.

  // Requires that every session has ended: the io_context that ran them is stopped or has run out of work.
  ~HttpTransport();

  // Serves requests on the connection until it closes; returns at once.
  void Serve(Connection connection);

  // Closes idle connections, lets sessions end with the request that they are in, and keeps new ones from staying.  Idempotent.
  void Drain();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace millrace
