// Errors as HTTP answers: status codes, reasons, and the JSON body that explains them.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include <string>

namespace millrace {

// An error for which HTTP has a status of its own, such as 411 or 415, in place of the one that
// `code` maps to.
absl::Status HttpError(int http_status, absl::StatusCode code, absl::string_view message);

// What HttpError said, else the one table of canonical codes.
int HttpStatus(const absl::Status& status);

// "Not Found" for 404; "Unknown" for a status that this server does not send.
absl::string_view Reason(int http_status);

// {"error": "...", "code": "INVALID_ARGUMENT"}
std::string ErrorBody(const absl::Status& status);

// True for errors that go away by themselves, which are answered with Retry-After.
bool IsTransient(int http_status);

}  // namespace millrace
