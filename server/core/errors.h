// The one distinction that canonical codes do not make.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

namespace millrace {

// RESOURCE_EXHAUSTED because the request is larger than a limit: sending it again later will not
// help.
absl::Status TooLargeError(absl::string_view message);

// True for what TooLargeError made.
bool IsTooLarge(const absl::Status& status);

}  // namespace millrace
