// The answers to GET: what can be called, and whether the server is well.
#pragma once

#include <absl/status/statusor.h>

#include "server/core/engine.h"
#include "server/transports/http/answer.h"
#include "server/transports/http/router.h"

namespace millrace {

// NOT_FOUND for a model that there is not.  Requires a page other than kPredict.
absl::StatusOr<Answer> GetPage(const Route& route, const Engine& engine);

}  // namespace millrace
