// A user's Python function, on worker processes.
#pragma once

#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include <memory>

#include "server/core/model.h"
#include "server/workers/supervisor.h"

namespace millrace {

// True for what names a Python function, "[NAME=]MODULE:OBJECT", and no built-in model.
bool IsPythonTarget(absl::string_view text);

// Reads the inputs where they were assembled, in another process.
class PythonModel final : public Model {
 public:
  // Returns when its workers are up.  INVALID_ARGUMENT, with a text for the user, when they cannot
  // start; CANCELLED when `interrupted`, which is asked now and then, says so.
  static absl::StatusOr<std::unique_ptr<PythonModel>> Start(absl::string_view target,
                                                            WorkerOptions options,
                                                            absl::FunctionRef<bool()> interrupted);

  // Ends the workers: at once those that run a request, the others after `grace`.
  void Stop(absl::Duration grace) { supervisor_.Stop(grace); }

  // Tells the workers to unmap memory that is gone.
  void Forget(uint64_t memory) { supervisor_.Forget(memory); }

  const ModelSpec& spec() const override { return supervisor_.spec(); }
  int Concurrency() const override { return concurrency_; }
  bool ready() const override { return supervisor_.ready(); }
  absl::Status Run(const Request& request, Outputs& outputs) override;

 private:
  PythonModel(std::string name, std::vector<std::string> command, WorkerOptions options);

  const std::string name_;
  const absl::Duration timeout_;
  const int concurrency_;
  Supervisor supervisor_;
};

}  // namespace millrace
