// The built-in models, by name.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <memory>

#include "server/core/model.h"

namespace millrace {

// The model that `spec` names, such as "row_mean_std".  NOT_FOUND lists what there is.
absl::StatusOr<std::unique_ptr<Model>> MakeModel(absl::string_view spec);

}  // namespace millrace
