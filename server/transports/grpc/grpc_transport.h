// gRPC: millrace.v1.PredictionService, grpc.health.v1.Health and server reflection.
#pragma once

#include <absl/status/status.h>
#include <absl/time/time.h>

#include <cstdint>
#include <memory>

#include <boost/asio/io_context.hpp>

#include "server/core/engine.h"
#include "server/transports/connection.h"
#include "server/transports/grpc/connections.h"

namespace millrace {

struct GrpcOptions {
  // Threads that read and write; 0 for one for every four cores.  Each connection has one of them.
  int threads = 0;

  // The largest single message, either way.  A message lies in gRPC's memory, outside the arena,
  // until it is copied.
  uint64_t max_unary_bytes = 64 << 20;

  // What gRPC may hold in all before it cancels calls; a last resort.
  uint64_t memory_limit = uint64_t{1} << 30;

  // A request's metadata, names and values.
  uint64_t max_metadata_bytes = 16 << 10;

  GrpcConnectionLimits connection;
};

// Thread-safe after Start().
class GrpcTransport {
 public:
  // Both must outlive it; `io` notices the end of connections.
  GrpcTransport(GrpcOptions options, Engine& engine, boost::asio::io_context& io);
  ~GrpcTransport();

  // INTERNAL when gRPC does not start.
  absl::Status Start();

  // Takes over a connection; returns at once.
  void Serve(Connection connection);

  // Tells health watchers that nothing is served any more.
  void StopServing();

  // Lets answers be sent for at most `timeout`, then ends every call and connection.  Requires that
  // the engine has drained.  Idempotent.
  void Stop(absl::Duration timeout);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace millrace
