// The first parts of HTTP/1.1 messages: the request's, written, and the response's, read.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <millrace/client.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace millrace::internal {

// The request line and header fields of a POST of one raw tensor.
std::string HttpRequestHead(absl::string_view host, absl::string_view model,
                            const TensorView& input, const PredictOptions& options);

struct HttpResponseHead {
  int status = 0;
  bool keep_alive = false;
  std::vector<std::pair<std::string, std::string>> fields;

  // The value of the first field of that name, in any case; empty if there is none.
  absl::string_view Field(absl::string_view name) const;
};

// From the text up to and with the empty line.
absl::StatusOr<HttpResponseHead> ParseHttpResponseHead(absl::string_view text);

// The body's size, from Content-Length.
absl::StatusOr<uint64_t> ContentLength(const HttpResponseHead& head);

// The error that a response of another status than 200 stands for.  `body` is JSON, {"error":
// "...", "code": "..."}, if it came from a Millrace server.
absl::Status HttpError(const HttpResponseHead& head, absl::string_view body);

}  // namespace millrace::internal
