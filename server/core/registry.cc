#include "server/core/registry.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <tuple>
#include <utility>

namespace millrace {
namespace {

// Orders versions so that 10 comes after 9.
bool VersionLess(const std::string& a, const std::string& b) {
  return std::make_tuple(a.size(), absl::string_view(a)) <
         std::make_tuple(b.size(), absl::string_view(b));
}

bool Less(const ModelSpec& a, const ModelSpec& b) {
  if (a.name != b.name) return a.name < b.name;
  return VersionLess(a.version, b.version);
}

}  // namespace

absl::Status Registry::Add(std::unique_ptr<Model> model) {
  const ModelSpec& spec = model->spec();
  for (const auto& other : models_) {
    if (other->spec().name == spec.name && other->spec().version == spec.version) {
      return absl::AlreadyExistsError(
          absl::StrCat("model \"", spec.name, "\" version ", spec.version, " is there twice"));
    }
  }
  models_.push_back(std::move(model));
  return absl::OkStatus();
}

absl::StatusOr<Model*> Registry::Find(absl::string_view name, absl::string_view version) const {
  if (name.empty()) name = default_name();
  Model* found = nullptr;
  for (const auto& model : models_) {
    const ModelSpec& spec = model->spec();
    if (spec.name != name || (!version.empty() && spec.version != version)) continue;
    if (found == nullptr || VersionLess(found->spec().version, spec.version)) found = model.get();
  }
  if (found != nullptr) return found;
  const std::string served = absl::StrJoin(List(), ", ", [](std::string* out, const Model* model) {
    absl::StrAppend(out, model->spec().name, " (version ", model->spec().version, ")");
  });
  return absl::NotFoundError(
      absl::StrCat("no model \"", Printable(name), "\"",
                   version.empty() ? "" : absl::StrCat(" of version \"", Printable(version), "\""),
                   "; served here: ", served.empty() ? "none" : served));
}

std::vector<const Model*> Registry::List() const {
  std::vector<const Model*> models;
  for (const auto& model : models_) models.push_back(model.get());
  std::sort(models.begin(), models.end(),
            [](const Model* a, const Model* b) { return Less(a->spec(), b->spec()); });
  return models;
}

absl::string_view Registry::default_name() const {
  return models_.empty() ? absl::string_view() : absl::string_view(models_.front()->spec().name);
}

}  // namespace millrace
