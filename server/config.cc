#include "server/config.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_replace.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <map>
#include <utility>

#include <CLI/CLI.hpp>

#include "server/workers/python_model.h"

#ifndef MILLRACE_VERSION
#error "MILLRACE_VERSION comes from the build"
#endif

namespace millrace {
namespace {

// gRPC counts messages in 32 bits, with room for the header.
constexpr uint64_t kLargestMessage = uint64_t{2047} << 20;

constexpr char kStandardBind[] = "127.0.0.1:8000";
constexpr const char* kStandardModels[] = {"row_mean_std", "identity"};

constexpr uint64_t kLargestMemory = uint64_t{1} << 46;

// Half of what this process may use: of the machine's memory, or of its control group's.
uint64_t DefaultMemoryLimit() {
  uint64_t available =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  std::ifstream group("/sys/fs/cgroup/memory.max");
  uint64_t limit = 0;
  if (group >> limit) available = std::min(available, limit);
  return available / 2;
}

// The environment variable of an option: --memory-limit is MILLRACE_MEMORY_LIMIT.
std::string Variable(const std::string& name) {
  return "MILLRACE_" + absl::StrReplaceAll(absl::AsciiStrToUpper(name), {{"-", "_"}});
}

// Adds options to an app, each with its default and its variable in the help.
class Options {
 public:
  explicit Options(CLI::App& app) : app_(app) {}

  // Repeats, or takes values with commas between them.
  void List(const std::string& name, std::vector<std::string>& values, const std::string& type,
            const std::string& standard, const std::string& help) {
    Add(name, values, help)
        ->delimiter(',')
        ->allow_extra_args(false)
        ->type_name(type)
        ->default_str(standard);
  }

  void Bytes(const std::string& name, uint64_t& value, uint64_t least, uint64_t most,
             const std::string& help) {
    const auto in_range = [least, most](const std::string& text) {
      uint64_t bytes = 0;
      if (absl::SimpleAtoi(text, &bytes) && bytes >= least && bytes <= most) return std::string();
      return absl::StrCat(text, " is not from ", least, " to ", most, " bytes");
    };
    Add(name, value, help)
        ->transform(CLI::AsSizeValue(true).description(""))
        ->check(CLI::Validator(in_range, ""))
        ->type_name("BYTES");
  }

  void Count(const std::string& name, int& value, int least, const std::string& help) {
    Add(name, value, help)->check(CLI::Range(least, 1'000'000).description(""))->type_name("COUNT");
  }

  void Seconds(const std::string& name, absl::Duration& value, const std::string& help) {
    const auto set = [&value](const double& seconds) { value = absl::Seconds(seconds); };
    app_.add_option_function<double>("--" + name, set, help)
        ->envname(Variable(name))
        ->check(CLI::Range(0.001, 1e6).description(""))
        ->default_str(absl::StrCat(absl::ToDoubleSeconds(value)))
        ->type_name("SECONDS");
  }

  void Text(const std::string& name, std::string& value, const std::string& type,
            const std::string& help) {
    app_.add_option("--" + name, value, help)->envname(Variable(name))->type_name(type);
  }

  void Flag(const std::string& name, bool& value, const std::string& help) {
    app_.add_flag("--" + name, value, help)->envname(Variable(name));
  }

  template <typename Enum>
  void Choice(const std::string& name, Enum& value, const std::map<std::string, Enum>& choices,
              const std::string& help) {
    std::string names;
    std::string standard;
    for (const auto& [choice, meaning] : choices) {
      absl::StrAppend(&names, names.empty() ? "" : "|", choice);
      if (meaning == value) standard = choice;
    }
    const auto set = [&value, choices](const std::string& choice) { value = choices.at(choice); };
    const auto is_choice = [choices, names](const std::string& text) {
      return choices.count(text) == 1 ? std::string()
                                      : absl::StrCat("\"", text, "\" is none of ", names);
    };
    app_.add_option_function<std::string>("--" + name, set, help)
        ->envname(Variable(name))
        ->check(CLI::Validator(is_choice, ""))
        ->default_str(standard)
        ->type_name(names);
  }

 private:
  template <typename T>
  CLI::Option* Add(const std::string& name, T& value, const std::string& help) {
    return app_.add_option("--" + name, value, help)
        ->envname(Variable(name))
        ->capture_default_str();
  }

  CLI::App& app_;
};

void AddOptions(CLI::App& app, Config& config, std::vector<std::string>& functions) {
  Options options(app);
  options.List("bind", config.acceptor.binds, "ADDRESS", kStandardBind,
               "Where to listen: HOST:PORT or unix:PATH; may be repeated");
  app.add_option("FUNCTION", functions,
                 "A Python function or class to serve, as [NAME=]MODULE:OBJECT")
      ->type_name("");
  options.List("model", config.models, "NAME", absl::StrJoin(kStandardModels, ","),
               "A built-in model, or [NAME=]MODULE:OBJECT; may be repeated, the first is the "
               "default");
  options.Count("workers", config.workers.workers, 0,
                "Processes that run a Python function; 0 for one a core");
  options.Count("threads", config.engine.threads, 0,
                "Requests that run at once; 0 for one a core. Of a Python function: in each of its "
                "workers; 0 for one");
  options.Seconds("timeout", config.workers.timeout,
                  "A worker that does not answer a request for so long is killed");
  options.Text("python", config.workers.python, "PATH",
               "The interpreter of the workers; unless given, that of $VIRTUAL_ENV, else python3");
  options.Flag("reload", config.workers.reload,
               "Start workers anew when a file of the Python function changes");
  options.Count("io-threads", config.io_threads, 0,
                "Threads that receive HTTP bodies; 0 for one a core, at most 4");
  options.Count("grpc-threads", config.grpc.threads, 0,
                "Threads that carry gRPC's messages; 0 for one for every four cores");
  options.Bytes(
      "memory-limit", config.arena.limit, 1 << 20, kLargestMemory,
      "Memory for tensors, of all requests together; the default is half of the machine's");
  options.Bytes("max-request-bytes", config.engine.max_request_bytes, 0, kLargestMemory,
                "The largest request; 0 for the memory limit");
  options.Bytes("max-unary-bytes", config.grpc.max_unary_bytes, 1 << 20, kLargestMessage,
                "The largest single gRPC message; larger tensors are streamed");
  options.Bytes("grpc-memory-limit", config.grpc.memory_limit, 64 << 20, kLargestMemory,
                "What gRPC may hold beside the tensors before it cancels calls");
  options.Count("max-connections", config.acceptor.max_connections, 1, "Connections at once");
  options.Count("max-connection-calls", config.grpc.connection.max_calls, 1,
                "gRPC calls at once on one connection");
  options.Count("max-requests", config.engine.max_calls, 1, "Requests at once, on all connections");
  options.Count("max-waiting", config.engine.max_waiting, 0, "Requests that may wait for memory");
  options.Count("max-queued", config.engine.max_queued, 1,
                "Requests that may wait for a thread, per model");
  options.Seconds("admission-timeout", config.engine.admission_timeout,
                  "How long a request may wait for memory");
  options.Seconds("request-timeout", config.engine.request_timeout,
                  "How long a request may take in all");
  options.Seconds("stall-timeout", config.engine.stall_timeout,
                  "A client that sends less than 1 kB/s for so long is given up");
  options.Seconds("header-timeout", config.http.header_timeout,
                  "For a whole HTTP header, or a connection's first bytes");
  options.Seconds("idle-timeout", config.http.idle_timeout,
                  "For the next request on an HTTP connection");
  options.Seconds("trim-after", config.arena.trim_after,
                  "How long unused memory is kept for the next request");
  options.Seconds("drain-timeout", config.drain_timeout,
                  "For admitted requests to finish after SIGTERM");
  options.Choice<LogFormat>("log-format", config.log_format,
                            {{"text", LogFormat::kText}, {"json", LogFormat::kJson}},
                            "The form of log lines");
  options.Choice<LogLevel>("log-level", config.log_level,
                           {{"debug", LogLevel::kDebug},
                            {"info", LogLevel::kInfo},
                            {"warn", LogLevel::kWarn},
                            {"error", LogLevel::kError}},
                           "The least that is logged; debug has a line for every request");
}

void Complete(const std::vector<std::string>& functions, Config& config) {
  if (config.acceptor.binds.empty()) config.acceptor.binds = {kStandardBind};
  config.models.insert(config.models.begin(), functions.begin(), functions.end());
  config.workers.threads = config.engine.threads;
  if (config.models.empty())
    config.models.assign(std::begin(kStandardModels), std::end(kStandardModels));
  config.acceptor.first_bytes_timeout = config.http.header_timeout;
}

bool IsGiven(const std::string& flag, const std::vector<std::string>& arguments) {
  return std::any_of(arguments.begin(), arguments.end(), [&](const std::string& argument) {
    return argument == flag || absl::StartsWith(argument, flag + "=");
  });
}

// The arguments, and before them what the environment says of options that they do not name: so
// that a variable wins over the file, which CLI11 by itself reads first.  In reverse, as CLI11
// wants them.
std::vector<std::string> Arguments(const CLI::App& app, int argc, const char* const* argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  std::vector<std::string> from_environment;
  for (const CLI::Option* option : app.get_options()) {
    const std::string flag = option->get_name();
    const char* const value =
        option->get_envname().empty() ? nullptr : std::getenv(option->get_envname().c_str());
    if (value != nullptr && !IsGiven(flag, arguments))
      from_environment.push_back(absl::StrCat(flag, "=", value));
  }
  arguments.insert(arguments.begin(), from_environment.begin(), from_environment.end());
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

}  // namespace

absl::StatusOr<std::optional<Config>> ParseConfig(int argc, const char* const* argv) {
  Config config;
  config.arena.limit = DefaultMemoryLimit();
  CLI::App app(
      "Serves models over gRPC and HTTP/1.1 on one port.\n"
      "Every option may also be a variable MILLRACE_... (--memory-limit is MILLRACE_MEMORY_LIMIT) "
      "or a line of the\n"
      "--config file (memory-limit = \"8GiB\"); the command line wins over variables, they over "
      "the file.\n"
      "Sizes may have a unit: 500MB, 8GiB.",
      "millrace-server");
  app.set_version_flag("--version", "millrace-server " MILLRACE_VERSION);
  app.set_help_flag("--help", "Print this");
  app.set_config("--config", "", "A file of options, one NAME = VALUE a line")
      ->envname("MILLRACE_CONFIG");
  app.allow_config_extras(CLI::config_extras_mode::error);
  std::vector<std::string> functions;
  AddOptions(app, config, functions);
  try {
    app.parse(Arguments(app, argc, argv));
  } catch (const CLI::Success& success) {
    app.exit(success);
    return std::nullopt;
  } catch (const CLI::ParseError& error) {
    return absl::InvalidArgumentError(absl::StrCat(error.what(), "; see millrace-server --help"));
  }
  for (const std::string& function : functions) {
    if (!IsPythonTarget(function)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", function,
                                                     "\" is not written as MODULE:FUNCTION; see "
                                                     "millrace-server --help"));
    }
  }
  Complete(functions, config);
  return config;
}

}  // namespace millrace
