#include "server/core/probe.h"

#include <absl/strings/str_format.h>

namespace millrace {

std::string ServerTiming(const Timing& timing) {
  return absl::StrFormat(
      "admit;dur=%.3f, receive;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f",
      absl::ToDoubleMilliseconds(timing.admit), absl::ToDoubleMilliseconds(timing.receive),
      absl::ToDoubleMilliseconds(timing.queue), absl::ToDoubleMilliseconds(timing.compute));
}

}  // namespace millrace
