#include "server/transports/http/answer.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <absl/time/time.h>

#include "server/transports/http/http_error.h"

namespace millrace {
namespace {

// The time now, written anew when the second has changed.
absl::string_view Date() {
  thread_local int64_t second = -1;
  thread_local std::string text;
  const int64_t now = absl::ToUnixSeconds(absl::Now());
  if (std::exchange(second, now) != now) {
    text = absl::FormatTime("%a, %d %b %Y %H:%M:%S GMT", absl::FromUnixSeconds(now),
                            absl::UTCTimeZone());
  }
  return text;
}

}  // namespace

Answer JsonAnswer(std::string text) {
  return {.content_type = "application/json", .text = std::move(text)};
}

Answer ErrorAnswer(const absl::Status& status) {
  Answer answer = JsonAnswer(ErrorBody(status));
  answer.status = HttpStatus(status);
  if (IsTransient(answer.status)) answer.fields.emplace_back("Retry-After", "1");
  return answer;
}

std::string FormatHead(const Answer& answer, Persistence persistence) {
  std::string head = absl::StrCat("HTTP/1.1 ", answer.status, " ", Reason(answer.status),
                                  "\r\nDate: ", Date(), "\r\nContent-Type: ", answer.content_type,
                                  "\r\nContent-Length: ", answer.body_size(), "\r\n");
  for (const auto& [name, value] : answer.fields) {
    absl::StrAppend(&head, name, ": ", value, "\r\n");
  }
  if (persistence == Persistence::kClose) absl::StrAppend(&head, "Connection: close\r\n");
  if (persistence == Persistence::kKeepAliveHttp10) {
    absl::StrAppend(&head, "Connection: keep-alive\r\n");
  }
  absl::StrAppend(&head, "\r\n");
  return head;
}

}  // namespace millrace
