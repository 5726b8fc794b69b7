#include "server/transports/http/http_error.h"

#include <absl/strings/cord.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

#include <array>
#include <utility>

#include "server/core/errors.h"
#include "server/transports/http/json_text.h"

namespace millrace {
namespace {

constexpr char kStatusPayload[] = "millrace.dev/http-status";

constexpr std::array<int, 17> kStatusOfCode = {
    200,  // OK
    499,  // CANCELLED
    500,  // UNKNOWN
    400,  // INVALID_ARGUMENT
    504,  // DEADLINE_EXCEEDED
    404,  // NOT_FOUND
    409,  // ALREADY_EXISTS
    403,  // PERMISSION_DENIED
    429,  // RESOURCE_EXHAUSTED
    400,  // FAILED_PRECONDITION
    409,  // ABORTED
    400,  // OUT_OF_RANGE
    501,  // UNIMPLEMENTED
    500,  // INTERNAL
    503,  // UNAVAILABLE
    500,  // DATA_LOSS
    401,  // UNAUTHENTICATED
};

constexpr std::pair<int, const char*> kReasons[] = {
    {100, "Continue"},
    {200, "OK"},
    {400, "Bad Request"},
    {401, "Unauthorized"},
    {403, "Forbidden"},
    {404, "Not Found"},
    {405, "Method Not Allowed"},
    {406, "Not Acceptable"},
    {408, "Request Timeout"},
    {409, "Conflict"},
    {411, "Length Required"},
    {413, "Content Too Large"},
    {415, "Unsupported Media Type"},
    {417, "Expectation Failed"},
    {429, "Too Many Requests"},
    {431, "Request Header Fields Too Large"},
    {499, "Client Closed Request"},
    {500, "Internal Server Error"},
    {501, "Not Implemented"},
    {503, "Service Unavailable"},
    {504, "Gateway Timeout"},
    {505, "HTTP Version Not Supported"},
};

}  // namespace

absl::Status HttpError(int http_status, absl::StatusCode code, absl::string_view message) {
  absl::Status status(code, message);
  status.SetPayload(kStatusPayload, absl::Cord(absl::StrCat(http_status)));
  return status;
}

int HttpStatus(const absl::Status& status) {
  int told = 0;
  const auto payload = status.GetPayload(kStatusPayload);
  if (payload && absl::SimpleAtoi(std::string(*payload), &told)) return told;
  if (IsTooLarge(status)) return 413;
  const auto code = static_cast<size_t>(status.code());
  return code < kStatusOfCode.size() ? kStatusOfCode[code] : 500;
}

absl::string_view Reason(int http_status) {
  for (const auto& [status, reason] : kReasons) {
    if (status == http_status) return reason;
  }
  return "Unknown";
}

std::string ErrorBody(const absl::Status& status) {
  const std::string message(status.message());
  std::string body = "{\"error\": ";
  AppendJsonString(message, body);
  absl::StrAppend(&body, ", \"code\": \"", absl::StatusCodeToString(status.code()), "\"}\n");
  return body;
}

bool IsTransient(int http_status) { return http_status == 429 || http_status == 503; }

}  // namespace millrace
