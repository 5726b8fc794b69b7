// A child process that cannot outlive the server.
#pragma once

#include <absl/status/statusor.h>
#include <absl/types/span.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "server/workers/fd.h"

namespace millrace {

// Destroyed after Reap() only.  Kill() is thread-safe; the rest belongs to one thread.
class Process {
 public:
  // Runs a program in a process group of its own, with `output` as standard output and error,
  // nothing to read, and of all descriptors only those of `inherited`, under their numbers.  It is
  // killed when the thread that calls this ends.
  static absl::StatusOr<Process> Start(const std::vector<std::string>& command, int output,
                                       absl::Span<const int> inherited);

  pid_t pid() const { return pid_; }

  // Becomes readable when the process has ended.
  int pidfd() const { return pidfd_.get(); }

  // Kills the process; nothing if it has ended.
  void Kill() const;

  // After pidfd() was readable: ends what is left of its group, and says how it ended: "was killed
  // by SIGSEGV", "exited with status 3".  Call once.
  std::string Reap();

 private:
  Process(pid_t pid, Fd pidfd) : pid_(pid), pidfd_(std::move(pidfd)) {}

  pid_t pid_;
  Fd pidfd_;
};

}  // namespace millrace
