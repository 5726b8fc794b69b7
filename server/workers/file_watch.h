// Notices that files have changed.
#pragma once

#include <absl/container/flat_hash_map.h>

#include <cstdint>
#include <string>
#include <vector>

namespace millrace {

// Not thread-safe.
class FileWatch {
 public:
  // Watches these files, too.  One that is new here and was changed after `since`, a time of day in
  // nanoseconds, counts as changed.
  void Add(const std::vector<std::string>& files, int64_t since);

  // True if one of them has changed since the last call.  A file that is missing has not changed
  // yet: editors replace files.
  bool Changed();

 private:
  absl::flat_hash_map<std::string, int64_t> changed_at_;  // by path, in nanoseconds
  bool changed_ = false;
};

// The time of day by which files are stamped, in nanoseconds.
int64_t FileClock();

}  // namespace millrace
