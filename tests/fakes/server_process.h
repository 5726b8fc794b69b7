// The real millrace-server, as a process of its own.
#pragma once

#include <absl/strings/str_split.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

extern char** environ;

namespace millrace {

// Listens on a free loopback port and on a unix socket.  Ended, and waited for, by the destructor.
class ServerProcess {
 public:
  // `binary` is the path of millrace-server.
  explicit ServerProcess(const std::string& binary, std::vector<std::string> options = {}) {
    const std::string socket =
        testing::TempDir() + "millrace_" + std::to_string(getpid()) + ".sock";
    std::vector<std::string> arguments = {binary, "--bind", "127.0.0.1:0", "--bind",
                                          "unix:" + socket};
    arguments.insert(arguments.end(), options.begin(), options.end());
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);

    int output[2];
    EXPECT_EQ(pipe2(output, O_CLOEXEC), 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, output[1], STDERR_FILENO);
    EXPECT_EQ(posix_spawn(&pid_, binary.c_str(), &actions, nullptr, argv.data(), environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(output[1]);
    output_ = output[0];
    ReadAddresses();
  }

  ~ServerProcess() {
    kill(pid_, SIGTERM);
    int status = 0;
    waitpid(pid_, &status, 0);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0)
        << "the server ended with status " << status << Rest();
    close(output_);
  }

  const std::string& tcp_address() const { return addresses_.at(0); }   // "127.0.0.1:40000"
  const std::string& unix_address() const { return addresses_.at(1); }  // "unix:/path"

 private:
  // From "... listening on A, B; serving ...".
  void ReadAddresses() {
    std::string text;
    const std::string begin = "listening on ";
    while (text.find("; serving") == std::string::npos) {
      pollfd ready = {output_, POLLIN, 0};
      char bytes[4096];
      const ssize_t size = poll(&ready, 1, 30'000) > 0 ? read(output_, bytes, sizeof bytes) : 0;
      ASSERT_GT(size, 0) << "the server did not start: " << text;
      text.append(bytes, static_cast<size_t>(size));
    }
    const size_t start = text.find(begin) + begin.size();
    addresses_ = absl::StrSplit(text.substr(start, text.find("; serving") - start), ", ");
  }

  std::string Rest() {
    fcntl(output_, F_SETFL, O_NONBLOCK);
    std::string text;
    char bytes[4096];
    for (ssize_t size; (size = read(output_, bytes, sizeof bytes)) > 0;)
      text.append(bytes, static_cast<size_t>(size));
    return "\n" + text;
  }

  pid_t pid_ = -1;
  int output_ = -1;
  std::vector<std::string> addresses_;
};

}  // namespace millrace
