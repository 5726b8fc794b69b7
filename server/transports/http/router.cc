#include "server/transports/http/router.h"

#include <absl/strings/ascii.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>

#include <algorithm>

#include "proto/wire/tensor.h"
#include "server/core/status_macros.h"

namespace millrace {
namespace {

constexpr absl::string_view kModels = "/v1/models";
constexpr absl::string_view kPredictVerb = ":predict";
constexpr size_t kMaxParameters = 64;

absl::StatusOr<std::string> DecodePercent(absl::string_view text, bool plus_is_space) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      decoded += plus_is_space && text[i] == '+' ? ' ' : text[i];
      continue;
    }
    const absl::string_view digits = text.substr(i + 1, 2);
    uint32_t byte = 0;
    const bool hexadecimal = std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit);
    if (digits.size() != 2 || !hexadecimal || !absl::SimpleHexAtoi(digits, &byte)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", Printable(text), "\" has a % without two hexadecimal digits"));
    }
    decoded += static_cast<char>(byte);
    i += digits.size();
  }
  return decoded;
}

absl::Status AddParameter(absl::string_view text, Target& target) {
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('=', 1));
  ASSIGN_OR_RETURN(std::string key, DecodePercent(parts.first, true));
  ASSIGN_OR_RETURN(std::string value, DecodePercent(parts.second, true));
  if (target.query.size() == kMaxParameters) {
    return absl::InvalidArgumentError(
        absl::StrCat("the query has more than ", kMaxParameters, " parameters"));
  }
  if (target.Find(key)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the query has \"", Printable(key), "\" more than once"));
  }
  target.query.emplace_back(std::move(key), std::move(value));
  return absl::OkStatus();
}

absl::Status NoSuchPath(absl::string_view path) {
  return absl::NotFoundError(absl::StrCat(
      "nothing is served at \"", Printable(path),
      "\"; POST a tensor to /predict or /v1/models/NAME:predict, GET /v1/models for the names"));
}

// "NAME", or "NAME/versions/VERSION".
bool ParseModel(absl::string_view text, Route& route) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, '/');
  if (parts.size() != 1 && (parts.size() != 3 || parts[1] != "versions" || parts[2].empty())) {
    return false;
  }
  route.model = std::string(parts[0]);
  if (parts.size() == 3) route.version = std::string(parts[2]);
  return !route.model.empty();
}

}  // namespace

std::optional<absl::string_view> Target::Find(absl::string_view key) const {
  for (const auto& [name, value] : query) {
    if (name == key) return value;
  }
  return std::nullopt;
}

absl::StatusOr<Target> ParseTarget(absl::string_view text) {
  if (absl::ConsumePrefix(&text, "http://"))
    text.remove_prefix(std::min(text.find('/'), text.size()));
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(text, absl::MaxSplits('?', 1));
  Target target;
  ASSIGN_OR_RETURN(target.path, DecodePercent(parts.first, false));
  for (absl::string_view parameter : absl::StrSplit(parts.second, '&', absl::SkipEmpty())) {
    RETURN_IF_ERROR(AddParameter(parameter, target));
  }
  return target;
}

absl::StatusOr<Route> FindRoute(absl::string_view path) {
  Route route;
  if (path == "/predict") return route;
  if (path == "/healthz") return Route{Page::kHealth, "", ""};
  if (path == "/readyz") return Route{Page::kReady, "", ""};
  if (path == kModels) return Route{Page::kModels, "", ""};
  absl::string_view model = path;
  if (!absl::ConsumePrefix(&model, kModels) || !absl::ConsumePrefix(&model, "/")) {
    return NoSuchPath(path);
  }
  route.page = absl::ConsumeSuffix(&model, kPredictVerb) ? Page::kPredict : Page::kModel;
  if (!ParseModel(model, route)) return NoSuchPath(path);
  return route;
}

absl::string_view AllowedMethods(Page page) {
  return page == Page::kPredict ? "POST" : "GET, HEAD";
}

bool Allows(Page page, absl::string_view method) {
  if (page == Page::kPredict) return method == "POST";
  return method == "GET" || method == "HEAD";
}

}  // namespace millrace
