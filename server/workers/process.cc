#include "server/workers/process.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

namespace millrace {
namespace {

// What the child does between fork and exec, where only calls that are safe in a signal handler may
// be made.
[[noreturn]] void BecomeProgram(char* const* arguments, int output, const int* inherited,
                                size_t count, pid_t server) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != server) _exit(127);
  setpgid(0, 0);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  const int nothing = open("/dev/null", O_RDONLY);
  if (dup2(nothing, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0) _exit(127);
  syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC);
  for (size_t i = 0; i < count; ++i) fcntl(inherited[i], F_SETFD, 0);
  execv(arguments[0], arguments);
  constexpr char kText[] = "the interpreter cannot be run\n";
  (void)!write(2, kText, sizeof(kText) - 1);
  _exit(127);
}

std::string SignalName(int number) {
  const char* const name = sigabbrev_np(number);
  return name == nullptr ? absl::StrCat("signal ", number) : absl::StrCat("SIG", name);
}

std::string HowItEnded(int status) {
  if (!WIFSIGNALED(status)) return absl::StrCat("exited with status ", WEXITSTATUS(status));
  return absl::StrCat("was killed by ", SignalName(WTERMSIG(status)),
                      WTERMSIG(status) == SIGKILL ? " (by somebody, or for lack of memory)" : "");
}

}  // namespace

absl::StatusOr<Process> Process::Start(const std::vector<std::string>& command, int output,
                                       absl::Span<const int> inherited) {
  std::vector<char*> arguments;
  for (const std::string& argument : command)
    arguments.push_back(const_cast<char*>(argument.c_str()));
  arguments.push_back(nullptr);
  const pid_t server = getpid();
  const pid_t pid = fork();
  if (pid == 0) {
    BecomeProgram(arguments.data(), output, inherited.data(), inherited.size(), server);
  }
  if (pid < 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot start a process: ", strerror(errno)));
  }
  Fd pidfd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  if (pidfd.get() < 0) {
    const std::string reason = strerror(errno);
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    return absl::ResourceExhaustedError(absl::StrCat("cannot watch a process: ", reason));
  }
  return Process(pid, std::move(pidfd));
}

void Process::Kill() const { syscall(SYS_pidfd_send_signal, pidfd_.get(), SIGKILL, nullptr, 0); }

std::string Process::Reap() {
  kill(-pid_, SIGKILL);  // Its number is not given to another before it is reaped.
  int status = 0;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  return HowItEnded(status);
}

}  // namespace millrace
