#include "server/core/clock.h"

#include <absl/time/clock.h>

#include <chrono>

namespace millrace {
namespace {

class MonotonicClock final : public Clock {
 public:
  absl::Time Now() const override {
    return start_ + absl::FromChrono(std::chrono::steady_clock::now() - steady_start_);
  }

 private:
  const absl::Time start_ = absl::Now();
  const std::chrono::steady_clock::time_point steady_start_ = std::chrono::steady_clock::now();
};

}  // namespace

const Clock& RealClock() {
  static const MonotonicClock* const clock = new MonotonicClock();
  return *clock;
}

}  // namespace millrace
