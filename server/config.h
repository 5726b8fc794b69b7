// What the server was asked to do, from arguments, environment and file.
#pragma once

#include <absl/status/statusor.h>
#include <absl/time/time.h>

#include <optional>
#include <string>
#include <vector>

#include "server/core/engine.h"
#include "server/core/slab_pool.h"
#include "server/ops/logging.h"
#include "server/transports/acceptor.h"
#include "server/transports/grpc/grpc_transport.h"
#include "server/transports/http/http_transport.h"
#include "server/workers/supervisor.h"

namespace millrace {

struct Config {
  AcceptorOptions acceptor;
  SlabPoolOptions arena;
  EngineOptions engine;
  GrpcOptions grpc;
  HttpOptions http;

  // Built-in ones, as MakeModel() takes them, and Python's, as PythonModel::Start() does; the first
  // is the default.
  std::vector<std::string> models;
  WorkerOptions workers;

  // Threads that receive HTTP bodies; 0 for one a core, at most 4.
  int io_threads = 0;

  LogFormat log_format = LogFormat::kText;
  LogLevel log_level = LogLevel::kInfo;

  // For admitted requests to finish after SIGTERM.
  absl::Duration drain_timeout = absl::Seconds(30);
};

// Reads the command line, then MILLRACE_... variables, then --config's file: what comes first wins.
// Nothing when the arguments asked for help or the version, which was then printed.
// INVALID_ARGUMENT, with a text for the user, for anything unknown or out of range.
absl::StatusOr<std::optional<Config>> ParseConfig(int argc, const char* const* argv);

}  // namespace millrace
