#include "server/core/probe.h"

#include <absl/strings/str_cat.h>

namespace millrace {
namespace {

// "5.210": whole microseconds, as milliseconds.
struct Milliseconds {
  explicit Milliseconds(absl::Duration duration)
      : us(absl::ToInt64Microseconds(duration + absl::Nanoseconds(500))) {}

  int64_t Whole() const { return us / 1000; }
  absl::Dec Part() const { return absl::Dec(us % 1000, absl::kZeroPad3); }

  const int64_t us;
};

}  // namespace

std::string ServerTiming(const Timing& timing) {
  const Milliseconds admit(timing.admit), receive(timing.receive), queue(timing.queue),
      compute(timing.compute);
  return absl::StrCat("admit;dur=", admit.Whole(), ".", admit.Part(),
                      ", receive;dur=", receive.Whole(), ".", receive.Part(),
                      ", queue;dur=", queue.Whole(), ".", queue.Part(),
                      ", compute;dur=", compute.Whole(), ".", compute.Part());
}

}  // namespace millrace
