// From a request's method and target to what it asks for.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace millrace {

enum class Page { kPredict, kModels, kModel, kHealth, kReady };

struct Route {
  Page page = Page::kPredict;
  std::string model;    // empty: the default model
  std::string version;  // empty: the latest
};

// A target's path and its query, percent signs decoded.
struct Target {
  std::string path;
  std::vector<std::pair<std::string, std::string>> query;

  // The parameter's value, if it was given.
  std::optional<absl::string_view> Find(absl::string_view key) const;
};

// INVALID_ARGUMENT for broken escapes, for a parameter that is given twice, and for more than 64 of
// them.
absl::StatusOr<Target> ParseTarget(absl::string_view target);

// NOT_FOUND for a path that is not served.
absl::StatusOr<Route> FindRoute(absl::string_view path);

// "GET, HEAD" or "POST": what the page is asked with.
absl::string_view AllowedMethods(Page page);

// False for a method that AllowedMethods() does not have.
bool Allows(Page page, absl::string_view method);

}  // namespace millrace
