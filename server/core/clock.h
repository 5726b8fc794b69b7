// Where the time comes from, so that tests can hold it still.
#pragma once

#include <absl/time/time.h>

namespace millrace {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;

  // Never goes back.
  virtual absl::Time Now() const = 0;
};

// The machine's monotonic clock, told as the time of day at the first call plus what has passed
// since.  Lives forever.
const Clock& RealClock();

}  // namespace millrace
