#include "server/workers/file_watch.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>

namespace millrace {
namespace {

class FileWatchTest : public testing::Test {
 protected:
  FileWatchTest() {
    close(mkstemp(path_.data()));
    Stamp(100);
  }
  ~FileWatchTest() override { unlink(path_.c_str()); }

  void Stamp(time_t seconds) {
    const timespec times[] = {{seconds, 0}, {seconds, 0}};
    ASSERT_EQ(utimensat(AT_FDCWD, path_.c_str(), times, 0), 0);
  }

  static int64_t Seconds(int64_t seconds) { return seconds * 1'000'000'000; }

  std::string path_ = testing::TempDir() + "/millrace-watch-XXXXXX";
  FileWatch watch_;
};

TEST_F(FileWatchTest, NoticesAChangeOnce) {
  watch_.Add({path_}, Seconds(200));
  EXPECT_FALSE(watch_.Changed());
  Stamp(300);
  EXPECT_TRUE(watch_.Changed());
  EXPECT_FALSE(watch_.Changed());
}

TEST_F(FileWatchTest, WhatChangedAfterItWasReadCounts) {
  watch_.Add({path_}, Seconds(50));
  EXPECT_TRUE(watch_.Changed());
}

TEST_F(FileWatchTest, WaitsForAFileThatIsBeingReplaced) {
  watch_.Add({path_}, Seconds(200));
  unlink(path_.c_str());
  EXPECT_FALSE(watch_.Changed());
  close(open(path_.c_str(), O_CREAT | O_WRONLY, 0600));
  EXPECT_TRUE(watch_.Changed());
}

}  // namespace
}  // namespace millrace
