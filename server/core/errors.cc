#include "server/core/errors.h"

#include <absl/strings/cord.h>

namespace millrace {
namespace {
constexpr char kTooLarge[] = "millrace/too-large";
}  // namespace

absl::Status TooLargeError(absl::string_view message) {
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kTooLarge, absl::Cord());
  return status;
}

bool IsTooLarge(const absl::Status& status) { return status.GetPayload(kTooLarge).has_value(); }

}  // namespace millrace
