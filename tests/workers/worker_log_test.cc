#include "server/workers/worker_log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace millrace {
namespace {

using testing::ElementsAre;
using testing::SizeIs;

std::vector<std::string> Cut(const std::vector<absl::string_view>& pieces) {
  std::vector<std::string> lines;
  const auto add = [&](std::string line) { lines.push_back(std::move(line)); };
  LineCutter cutter;
  for (const absl::string_view piece : pieces) cutter.Add(piece, add);
  cutter.Finish(add);
  return lines;
}

TEST(LineCutterTest, CutsAtTheEndsOfLinesWhereverThePiecesEnd) {
  EXPECT_THAT(Cut({"one\ntw", "o\r\n\nthree"}), ElementsAre("one", "two", "three"));
}

TEST(LineCutterTest, CutsWhatIsTooLong) {
  EXPECT_THAT(Cut({std::string(4500, 'x')}), ElementsAre(SizeIs(2000), SizeIs(2000), SizeIs(500)));
}

TEST(LineCutterTest, LeavesNothingThatALogCannotHold) {
  EXPECT_THAT(Cut({"a\tb\x1b[1m \xc3\xbc\n", "\xff\xc3\n"}), ElementsAre("a b [1m \xc3\xbc", "??"));
}

}  // namespace
}  // namespace millrace
