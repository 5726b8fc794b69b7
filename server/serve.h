// The composition root: builds the server from its configuration and runs it.
#pragma once

#include <absl/status/status.h>

#include "server/config.h"

namespace millrace {

// Serves until SIGTERM or SIGINT, then drains.  Returns early with an error when the server cannot
// start.
absl::Status Serve(const Config& config);

}  // namespace millrace
