#include "server/serve.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <string>
#include <thread>
#include <vector>

#include "server/core/clock.h"
#include "server/core/engine.h"
#include "server/core/registry.h"
#include "server/core/slab_pool.h"
#include "server/core/status_macros.h"
#include "server/models/factory.h"
#include "server/ops/logging.h"
#include "server/transports/acceptor.h"
#include "server/transports/grpc/grpc_transport.h"
#include "server/transports/http/http_transport.h"
#include "server/transports/io_threads.h"
#include "server/workers/python_model.h"

namespace millrace {
namespace {

// A gRPC connection has two descriptors and may have a slab of its own.
constexpr uint64_t kDescriptorsPerConnection = 3;
constexpr uint64_t kOtherDescriptors = 256;

// Of the time to drain, what is kept for the last answers to be sent.
constexpr double kForLastAnswers = 0.1;

// SIGTERM and SIGINT, kept back from construction on, in this thread and those that it starts.
class Signals {
 public:
  Signals() {
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }

  // True once one came that was not waited for yet.
  bool Came() const {
    sigset_t pending;
    sigpending(&pending);
    return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1;
  }

  // Blocks until one came, and returns its name; a second one then ends the process at once.
  const char* Wait() {
    int number = 0;
    sigwait(&set_, &number);
    pthread_sigmask(SIG_UNBLOCK, &set_, nullptr);
    return number == SIGTERM ? "SIGTERM" : "SIGINT";
  }

 private:
  sigset_t set_ = {};
};

// Owned by the registry.
using PythonModels = std::vector<PythonModel*>;

absl::StatusOr<PythonModels> AddModels(const Config& config, const Signals& signals,
                                       Registry& registry) {
  PythonModels python;
  for (const std::string& name : config.models) {
    if (!IsPythonTarget(name)) {
      ASSIGN_OR_RETURN(std::unique_ptr<Model> model, MakeModel(name));
      RETURN_IF_ERROR(registry.Add(std::move(model)));
      continue;
    }
    const auto interrupted = [&signals] { return signals.Came(); };
    ASSIGN_OR_RETURN(std::unique_ptr<PythonModel> model,
                     PythonModel::Start(name, config.workers, interrupted));
    python.push_back(model.get());
    RETURN_IF_ERROR(registry.Add(std::move(model)));
  }
  return python;
}

// Raises the limit on descriptors as far as allowed, and lowers the cap on connections to what it
// carries.
AcceptorOptions FitDescriptors(AcceptorOptions options) {
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return options;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
  const uint64_t left = limit.rlim_cur > kOtherDescriptors ? limit.rlim_cur - kOtherDescriptors : 0;
  const uint64_t most = std::max<uint64_t>(1, left / kDescriptorsPerConnection);
  if (most < static_cast<uint64_t>(options.max_connections)) {
    spdlog::warn("at most {} connections, not {}: the limit on open files is {} (ulimit -n)", most,
                 options.max_connections, limit.rlim_cur);
    options.max_connections = static_cast<int>(most);
  }
  return options;
}

int CountIoThreads(const Config& config) {
  if (config.io_threads > 0) return config.io_threads;
  return static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1u, 4u));
}

std::string StartLine(const Acceptor& acceptor, const Engine& engine, const SlabPool& pool) {
  const std::string models =
      absl::StrJoin(engine.registry().List(), ", ", [](std::string* out, const Model* model) {
        absl::StrAppend(out, model->spec().name, " (version ", model->spec().version, ")");
      });
  return absl::StrFormat("listening on %s; serving %s; %d at once; at most %.2f GiB of tensors",
                         absl::StrJoin(acceptor.addresses(), ", "), models, engine.concurrency(),
                         static_cast<double>(pool.limit()) / (1 << 30));
}

}  // namespace

absl::Status Serve(const Config& config) {
  std::signal(SIGPIPE, SIG_IGN);
  Signals signals;
  Registry registry;
  ASSIGN_OR_RETURN(const PythonModels python, AddModels(config, signals, registry));
  SlabPool pool(config.arena);
  pool.SetOnGiveUp([&python](uint64_t memory) {
    for (PythonModel* model : python) model->Forget(memory);
  });
  CallLog call_log;
  Engine engine(config.engine, pool, registry, call_log);

  // Sessions that are cut off end with these, after the transports and before the engine.
  IoThreads threads(CountIoThreads(config));
  GrpcTransport grpc(config.grpc, engine, threads.first());
  HttpTransport http(config.http, engine);
  Acceptor acceptor(
      FitDescriptors(config.acceptor), threads, [&](Connection c) { grpc.Serve(std::move(c)); },
      [&](Connection c) { http.Serve(std::move(c)); });
  RETURN_IF_ERROR(acceptor.Listen());
  RETURN_IF_ERROR(grpc.Start());
  acceptor.Start();

  spdlog::info(StartLine(acceptor, engine, pool));

  const char* const signal = signals.Wait();
  engine.StopAdmitting();
  grpc.StopServing();
  spdlog::info("{}: draining", signal);
  acceptor.Stop();
  http.Drain();
  const absl::Time deadline = RealClock().Now() + config.drain_timeout;
  const auto left = [&] { return std::max(deadline - RealClock().Now(), absl::ZeroDuration()); };
  engine.Drain(config.drain_timeout * (1 - kForLastAnswers));
  http.WaitUntilClosed(left());
  grpc.Stop(left());
  for (PythonModel* model : python) model->Stop(left());
  threads.Stop();
  spdlog::info("stopped");
  return absl::OkStatus();
}

}  // namespace millrace
