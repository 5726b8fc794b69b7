#include "server/workers/file_watch.h"

#include <sys/stat.h>
#include <time.h>

#include <utility>

namespace millrace {
namespace {

int64_t Nanoseconds(const timespec& time) { return time.tv_sec * 1'000'000'000 + time.tv_nsec; }

// 0 for a file that is not there.
int64_t ChangedAt(const std::string& file) {
  struct stat info = {};
  return stat(file.c_str(), &info) == 0 ? Nanoseconds(info.st_mtim) : 0;
}

}  // namespace

void FileWatch::Add(const std::vector<std::string>& files, int64_t since) {
  for (const std::string& file : files) {
    const auto [known, is_new] = changed_at_.try_emplace(file, ChangedAt(file));
    if (is_new && known->second > since) changed_ = true;
  }
}

bool FileWatch::Changed() {
  for (auto& [file, known] : changed_at_) {
    const int64_t now = ChangedAt(file);
    if (now == 0 || now == known) continue;
    known = now;
    changed_ = true;
  }
  return std::exchange(changed_, false);
}

int64_t FileClock() {
  timespec now = {};
  clock_gettime(CLOCK_REALTIME_COARSE, &now);
  return Nanoseconds(now);
}

}  // namespace millrace
