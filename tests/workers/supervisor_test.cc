// With shell scripts for workers, which speak on their control socket as far as a test needs it.
#include "server/workers/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace millrace {
namespace {

using testing::HasSubstr;

absl::Status StartOf(const std::string& script, bool interrupted = false) {
  // $0 is the control socket's number.
  Supervisor supervisor("m", {"/bin/sh", "-c", script}, {.workers = 1, .threads = 1});
  return supervisor.Start([interrupted] { return interrupted; });
}

TEST(SupervisorTest, SaysHowAWorkerEndedBeforeItWasUp) {
  const absl::Status status = StartOf("exit 4");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(status.message(), "m: exited with status 4");
}

TEST(SupervisorTest, SaysThatAProgramIsNoWorker) {
  EXPECT_THAT(std::string(StartOf("echo hello >&$0; exec sleep 60").message()),
              HasSubstr("closed its connection"));
}

TEST(SupervisorTest, AStartCanBeInterrupted) {
  EXPECT_EQ(StartOf("exec sleep 60", true).code(), absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace millrace
