#include "client/cli/progress_bar.h"

#include <gtest/gtest.h>

namespace millrace {
namespace {

Progress Half() {
  return {.sent = 15'000'000, .total = 30'000'000, .elapsed = absl::Milliseconds(3500)};
}

TEST(FormatBytesTest, TakesTheLargestUnitThatFits) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1000), "1.0 kB");
  EXPECT_EQ(FormatBytes(30e6), "30.0 MB");
  EXPECT_EQ(FormatBytes(999'960), "1.0 MB");
  EXPECT_EQ(FormatBytes(2.5e12), "2.5 TB");
}

TEST(ProgressLineTest, ShowsBytesRateAndTimeLeft) {
  EXPECT_EQ(ProgressLine(Half(), 72),
            "[============>           ] 50%  15.0 MB of 30.0 MB  0.00 GB/s  0:04 left");
}

TEST(ProgressLineTest, ShowsRequestsWhenThereAreSeveral) {
  Progress progress = Half();
  progress.done = 12;
  progress.requests = 50;
  EXPECT_NE(ProgressLine(progress, 200).find("  12 of 50 requests"), std::string::npos);
}

TEST(ProgressLineTest, SaysWhatItWaitsForWhenAllIsSent) {
  Progress progress = Half();
  progress.sent = progress.total;
  EXPECT_NE(ProgressLine(progress, 200).find("100%  30.0 MB of 30.0 MB"), std::string::npos);
  EXPECT_NE(ProgressLine(progress, 200).find("waiting for the answer"), std::string::npos);
}

TEST(ProgressLineTest, NeverIsWiderThanTheTerminal) {
  for (size_t width = 0; width < 150; ++width) EXPECT_LE(ProgressLine(Half(), width).size(), width);
}

TEST(ProgressLineTest, NothingToSendAndNoTimeAreNoProblem) {
  EXPECT_EQ(ProgressLine({}, 34), "100%  0 B of 0 B  waiting for the ");
  Progress start = Half();
  start.sent = 0;
  start.elapsed = absl::ZeroDuration();
  EXPECT_EQ(ProgressLine(start, 40), "[>                  ] 0%  0 B of 30.0 MB");
}

TEST(ProgressLineTest, LongTimesHaveHours) {
  Progress slow = Half();
  slow.elapsed = absl::Seconds(3725);
  EXPECT_NE(ProgressLine(slow, 200).find("1:02:05 left"), std::string::npos);
}

}  // namespace
}  // namespace millrace
