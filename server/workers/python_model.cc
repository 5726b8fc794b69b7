#include "server/workers/python_model.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <thread>
#include <utility>

#include "server/core/clock.h"
#include "server/core/status_macros.h"
#include "server/workers/conversation.h"

namespace millrace {
namespace {

namespace fs = std::filesystem;

// Beside the server: bin/millrace-server and share/millrace/python, installed or built.
absl::StatusOr<std::string> WorkerFolder() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  const fs::path folder = self.parent_path().parent_path() / "share" / "millrace" / "python";
  if (!error && fs::exists(folder / "__main__.py", error)) return folder.string();
  return absl::NotFoundError(absl::StrCat("Millrace's Python files are not in ", folder.string()));
}

bool IsProgram(const std::string& path) {
  std::error_code error;
  return access(path.c_str(), X_OK) == 0 && fs::is_regular_file(path, error);
}

std::string Variable(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// As a shell finds it.
std::string InPath(const std::string& program) {
  for (const absl::string_view folder : absl::StrSplit(Variable("PATH"), ':', absl::SkipEmpty())) {
    const std::string path = absl::StrCat(folder, "/", program);
    if (IsProgram(path)) return path;
  }
  return "";
}

absl::StatusOr<std::string> Interpreter(const std::string& asked) {
  const std::string environment = Variable("VIRTUAL_ENV");
  std::string found = asked;
  if (asked.empty()) {
    found = environment.empty() ? InPath("python3") : absl::StrCat(environment, "/bin/python");
  } else if (asked.find('/') == std::string::npos) {
    found = InPath(asked);
  }
  if (IsProgram(found)) return found;
  return absl::InvalidArgumentError(absl::StrCat(
      "no Python interpreter \"", asked.empty() && found.empty() ? "python3" : asked + found,
      "\"; name one with --python"));
}

WorkerOptions Completed(WorkerOptions options) {
  if (options.workers == 0)
    options.workers = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  if (options.threads == 0) options.threads = 1;
  return options;
}

struct Target {
  std::string name;
  std::string object;  // MODULE:OBJECT
};

Target Parse(absl::string_view text) {
  const size_t equals = text.find('=');
  if (equals != absl::string_view::npos)
    return {std::string(text.substr(0, equals)), std::string(text.substr(equals + 1))};
  const absl::string_view object = text.substr(text.find(':') + 1);
  return {std::string(object.substr(object.rfind('.') + 1)), std::string(text)};
}

}  // namespace

bool IsPythonTarget(absl::string_view text) { return text.find(':') != absl::string_view::npos; }

absl::StatusOr<std::unique_ptr<PythonModel>> PythonModel::Start(
    absl::string_view target, WorkerOptions options, absl::FunctionRef<bool()> interrupted) {
  const Target parsed = Parse(target);
  if (parsed.name.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", target, "\" is not written as MODULE:FUNCTION"));
  }
  ASSIGN_OR_RETURN(std::string interpreter, Interpreter(options.python));
  ASSIGN_OR_RETURN(std::string folder, WorkerFolder());
  std::unique_ptr<PythonModel> model(
      new PythonModel(parsed.name, {std::move(interpreter), std::move(folder), parsed.object},
                      Completed(std::move(options))));
  RETURN_IF_ERROR(model->supervisor_.Start(interrupted));
  return model;
}

PythonModel::PythonModel(std::string name, std::vector<std::string> command, WorkerOptions options)
    : name_(name),
      timeout_(options.timeout),
      concurrency_(options.workers * options.threads),
      supervisor_(std::move(name), std::move(command), options) {}

absl::Status PythonModel::Run(const Request& request, Outputs& outputs) {
  ASSIGN_OR_RETURN(Supervisor::Lease lease, supervisor_.Acquire(RealClock().Now() + timeout_));
  Conversation conversation(*lease.worker, lease.slot);
  absl::Status status = conversation.Run(request, spec(), timeout_, outputs);
  if (!absl::IsAborted(status)) {
    supervisor_.Release(std::move(lease));
    return status;
  }
  const int number = lease.worker->number();
  const std::string how = supervisor_.End(std::move(lease), status.message());
  return absl::UnavailableError(absl::StrCat("worker ", number, " of model \"", name_, "\" ", how,
                                             " while it ran the request"));
}

}  // namespace millrace
