// Lines for the log that nobody has to wait for.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/functional/function_ref.h>
#include <absl/strings/string_view.h>
#include <spdlog/common.h>

#include <deque>
#include <string>
#include <thread>
#include <utility>

#include "server/core/mutex.h"

namespace millrace {

// Logs on a thread of its own, so that whoever reads what workers print never stands still because
// the log does.  What is too much at once is left out, and counted.  Thread-safe.
class WorkerLog {
 public:
  WorkerLog();
  ~WorkerLog();  // Logs what is left.

  void Add(spdlog::level::level_enum level, std::string line);

 private:
  void Write();

  Mutex mu_;
  CondVar changed_;
  std::deque<std::pair<spdlog::level::level_enum, std::string>> lines_ ABSL_GUARDED_BY(mu_);
  uint64_t left_out_ ABSL_GUARDED_BY(mu_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

// Cuts bytes into lines, at ends of lines and where they are too long: valid UTF-8, without control
// characters.
class LineCutter {
 public:
  void Add(absl::string_view bytes, absl::FunctionRef<void(std::string)> on_line);

  // What is left without an end of line.
  void Finish(absl::FunctionRef<void(std::string)> on_line);

 private:
  std::string line_;
};

}  // namespace millrace
