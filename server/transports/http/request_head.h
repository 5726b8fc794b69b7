// A request's header, and the gate that decides whether what follows it can be told apart from the
// next request.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

namespace millrace {

inline constexpr size_t kMaxHeadSize = 16 << 10;
inline constexpr size_t kMaxHeadFields = 100;

// How a body ends.
enum class Framing { kNone, kLength, kChunked };

struct RequestHead {
  std::string method;
  std::string target;  // path and query, as sent
  bool http_1_0 = false;
  bool keep_alive = false;

  Framing framing = Framing::kNone;
  uint64_t content_length = 0;    // with kLength
  bool expects_continue = false;  // the client waits for "100 Continue" before it sends the body

  // Empty where the request has none.
  std::string content_type;
  std::string accept;
  std::string request_id;  // also empty unless it is printable and short

  bool has_body() const { return framing == Framing::kChunked || content_length > 0; }
};

// Bytes of the header that `bytes` begins with, its empty line included; nothing if it is not whole
// yet.  `searched` bytes of it were given to an earlier call.  An error with HTTP status 431 when
// it is longer than kMaxHeadSize.
absl::StatusOr<std::optional<size_t>> FindHead(absl::string_view bytes, size_t searched);

// Reads a whole header.  Errors carry their HTTP status: 400 for what is malformed or could be
// understood in two ways (RFC 9112, section 6), 417, 431, 501 or 505 where that is the truth.  The
// connection is to be closed after any.
absl::StatusOr<RequestHead> ParseHead(absl::string_view head);

}  // namespace millrace
