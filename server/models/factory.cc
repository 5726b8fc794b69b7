#include "server/models/factory.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <string>

#include "server/models/dense.h"
#include "server/models/identity.h"
#include "server/models/row_mean_std.h"

namespace millrace {
namespace {

struct Entry {
  absl::string_view name;
  std::unique_ptr<Model> (*make)();
};

constexpr Entry kModels[] = {
    {"dense", MakeDense},
    {"identity", MakeIdentity},
    {"row_mean_std", MakeRowMeanStd},
};

std::string Names() {
  return absl::StrJoin(kModels, ", ", [](std::string* out, const Entry& entry) {
    absl::StrAppend(out, entry.name);
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<Model>> MakeModel(absl::string_view spec) {
  for (const Entry& entry : kModels) {
    if (entry.name == spec) return entry.make();
  }
  return absl::NotFoundError(
      absl::StrCat("no model \"", Printable(spec), "\"; there are: ", Names()));
}

}  // namespace millrace
