#include "client/cpp/http_head.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>
#include <absl/strings/strip.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>

#include <google/protobuf/struct.pb.h>

#include "client/cpp/output_assembler.h"

namespace millrace::internal {
namespace {

std::string PercentEncode(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    if (absl::ascii_isalnum(c) || absl::StrContains("-._~", absl::string_view(&c, 1))) {
      out += c;
    } else {
      absl::StrAppend(&out, "%", absl::Hex(static_cast<uint8_t>(c), absl::kZeroPad2));
    }
  }
  return out;
}

std::string Path(absl::string_view model, absl::string_view version) {
  if (model.empty()) return "/predict";
  std::string path = absl::StrCat("/v1/models/", PercentEncode(model));
  if (!version.empty()) absl::StrAppend(&path, "/versions/", PercentEncode(version));
  return path + ":predict";
}

absl::StatusCode CodeOf(int http_status) {
  switch (http_status) {
    case 400:
    case 411:
    case 415:
      return absl::StatusCode::kInvalidArgument;
    case 404:
      return absl::StatusCode::kNotFound;
    case 408:
    case 504:
      return absl::StatusCode::kDeadlineExceeded;
    case 413:
    case 429:
      return absl::StatusCode::kResourceExhausted;
    case 501:
      return absl::StatusCode::kUnimplemented;
    case 503:
      return absl::StatusCode::kUnavailable;
    default:
      return absl::StatusCode::kUnknown;
  }
}

absl::StatusCode ParseCode(absl::string_view name, absl::StatusCode otherwise) {
  for (int i = 1; i <= static_cast<int>(absl::StatusCode::kUnauthenticated); ++i) {
    const auto code = static_cast<absl::StatusCode>(i);
    if (absl::StatusCodeToString(code) == name) return code;
  }
  return otherwise;
}

}  // namespace

std::string HttpRequestHead(absl::string_view host, absl::string_view model,
                            const TensorView& input, const PredictOptions& options) {
  std::string head = absl::StrCat(
      "POST ", Path(model, options.version), "?shape=", absl::StrJoin(input.meta.shape, ","),
      "&dtype=", Name(input.meta.dtype),
      input.meta.name.empty() ? "" : absl::StrCat("&name=", PercentEncode(input.meta.name)),
      " HTTP/1.1\r\n", "Host: ", host, "\r\nContent-Type: application/octet-stream\r\n",
      "Accept: application/octet-stream\r\nContent-Length: ", input.bytes.size(), "\r\n");
  if (!options.request_id.empty())
    absl::StrAppend(&head, "X-Request-Id: ", options.request_id, "\r\n");
  return head + "\r\n";
}

absl::string_view HttpResponseHead::Field(absl::string_view name) const {
  for (const auto& [key, value] : fields) {
    if (absl::EqualsIgnoreCase(key, name)) return value;
  }
  return "";
}

absl::StatusOr<HttpResponseHead> ParseHttpResponseHead(absl::string_view text) {
  HttpResponseHead head;
  const bool http_1_1 = absl::StartsWith(text, "HTTP/1.1 ");
  if ((!http_1_1 && !absl::StartsWith(text, "HTTP/1.0 ")) ||
      !absl::SimpleAtoi(text.substr(9, 3), &head.status)) {
    return BrokenAnswer("it is not HTTP/1.1");
  }
  std::vector<absl::string_view> lines = absl::StrSplit(text, "\r\n", absl::SkipEmpty());
  for (const absl::string_view line : absl::MakeConstSpan(lines).subspan(1)) {
    const std::pair<absl::string_view, absl::string_view> field =
        absl::StrSplit(line, absl::MaxSplits(':', 1));
    head.fields.emplace_back(field.first, absl::StripAsciiWhitespace(field.second));
  }
  const absl::string_view connection = head.Field("Connection");
  head.keep_alive = http_1_1 ? !absl::EqualsIgnoreCase(connection, "close")
                             : absl::EqualsIgnoreCase(connection, "keep-alive");
  return head;
}

absl::StatusOr<uint64_t> ContentLength(const HttpResponseHead& head) {
  uint64_t size = 0;
  if (!absl::SimpleAtoi(head.Field("Content-Length"), &size))
    return BrokenAnswer("it has no Content-Length");
  return size;
}

absl::Status HttpError(const HttpResponseHead& head, absl::string_view body) {
  google::protobuf::Struct json;
  std::string message, code;
  if (google::protobuf::util::JsonStringToMessage(std::string(body), &json).ok()) {
    message = (*json.mutable_fields())["error"].string_value();
    code = (*json.mutable_fields())["code"].string_value();
  }
  if (message.empty())
    message = absl::StrCat("HTTP status ", head.status, ": ", Printable(body, 200));
  return {ParseCode(code, CodeOf(head.status)), message};
}

}  // namespace millrace::internal
