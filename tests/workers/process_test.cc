#include "server/workers/process.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

namespace millrace {
namespace {

struct Outcome {
  std::string printed;
  std::string end;
};

Outcome RunShell(const std::string& script, absl::Span<const int> inherited = {}) {
  int output[2];
  EXPECT_EQ(pipe2(output, O_CLOEXEC), 0);
  auto process = Process::Start({"/bin/sh", "-c", script}, output[1], inherited);
  EXPECT_TRUE(process.ok()) << process.status();
  close(output[1]);
  pollfd ended = {process->pidfd(), POLLIN, 0};
  EXPECT_EQ(poll(&ended, 1, 20'000), 1);
  Outcome outcome;
  outcome.end = process->Reap();
  char buffer[1000];
  const ssize_t size = read(output[0], buffer, sizeof(buffer));
  outcome.printed.assign(buffer, static_cast<size_t>(std::max<ssize_t>(size, 0)));
  close(output[0]);
  return outcome;
}

TEST(ProcessTest, SaysHowItEnded) {
  EXPECT_EQ(RunShell("exit 0").end, "exited with status 0");
  EXPECT_EQ(RunShell("exit 3").end, "exited with status 3");
  EXPECT_EQ(RunShell("kill -SEGV $$").end, "was killed by SIGSEGV");
  EXPECT_EQ(RunShell("kill -KILL $$").end,
            "was killed by SIGKILL (by somebody, or for lack of memory)");
}

TEST(ProcessTest, HearsBothOutputsAndReadsNothing) {
  EXPECT_EQ(RunShell("read line; echo \"[$line]\"; echo error >&2").printed, "[]\nerror\n");
}

TEST(ProcessTest, InheritsWhatItIsGivenAndNothingElse) {
  const int given = open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int other = open("/dev/null", O_RDONLY);
  const auto is_open = [&](int fd) {
    return RunShell("[ ! -e /proc/$$/fd/" + std::to_string(fd) + " ] || echo open", {&given, 1})
        .printed;
  };
  EXPECT_EQ(is_open(given), "open\n");
  EXPECT_EQ(is_open(other), "");
  close(given);
  close(other);
}

TEST(ProcessTest, WhatCannotBeRunEndsAndSaysSo) {
  int output[2];
  ASSERT_EQ(pipe2(output, O_CLOEXEC), 0);
  auto process = Process::Start({"/nowhere"}, output[1], {});
  pollfd ended = {process->pidfd(), POLLIN, 0};
  ASSERT_EQ(poll(&ended, 1, 20'000), 1);
  EXPECT_EQ(process->Reap(), "exited with status 127");
  close(output[0]);
  close(output[1]);
}

}  // namespace
}  // namespace millrace
