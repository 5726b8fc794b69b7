// Name and version to model.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <memory>
#include <vector>

#include "server/core/model.h"

namespace millrace {

// Filled before it is shared, constant and so thread-safe from then on.  Owns its models.
class Registry {
 public:
  // ALREADY_EXISTS for a second model of the same name and version.
  absl::Status Add(std::unique_ptr<Model> model);

  // An empty name is the default model, the first that was added; an empty version the latest,
  // which is the longest and then the largest as text.  NOT_FOUND lists what there is.
  absl::StatusOr<Model*> Find(absl::string_view name, absl::string_view version) const;

  // By name and version.
  std::vector<const Model*> List() const;

  // Empty if there is no model.
  absl::string_view default_name() const;

 private:
  std::vector<std::unique_ptr<Model>> models_;  // in the order of Add()
};

}  // namespace millrace
