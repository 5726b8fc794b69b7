#include "server/core/probe.h"

#include <absl/strings/str_cat.h>

namespace millrace {
namespace {

void AppendStep(absl::string_view name, absl::Duration duration, std::string& out) {
  const int64_t us = absl::ToInt64Microseconds(duration + absl::Nanoseconds(500));
  absl::StrAppend(&out, out.empty() ? "" : ", ", name, ";dur=", us / 1000, ".",
                  absl::Dec(us % 1000, absl::kZeroPad3));
}

}  // namespace

std::string ServerTiming(const Timing& timing) {
  std::string out;
  AppendStep("admit", timing.admit, out);
  AppendStep("receive", timing.receive, out);
  AppendStep("queue", timing.queue, out);
  AppendStep("compute", timing.compute, out);
  return out;
}

}  // namespace millrace
