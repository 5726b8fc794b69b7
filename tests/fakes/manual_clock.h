// A clock that moves when told.
#pragma once

#include <absl/time/time.h>

#include "server/core/clock.h"
#include "server/core/mutex.h"

namespace millrace {

// Thread-safe.
class ManualClock final : public Clock {
 public:
  absl::Time Now() const override {
    MutexLock lock(mu_);
    return now_;
  }

  void Advance(absl::Duration duration) {
    MutexLock lock(mu_);
    now_ += duration;
  }

 private:
  mutable Mutex mu_;
  absl::Time now_ ABSL_GUARDED_BY(mu_) = absl::FromUnixSeconds(1'000'000);
};

}  // namespace millrace
