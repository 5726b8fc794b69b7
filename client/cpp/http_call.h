// Predictions over HTTP/1.1.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>
#include <millrace/client.h>

#include <memory>
#include <string>

#include "client/cpp/socket.h"

namespace millrace::internal {

// One connection, for one call at a time.
struct HttpConnection {
  static absl::StatusOr<std::unique_ptr<HttpConnection>> Open(const Address& address,
                                                              absl::Time deadline);
  // False once it cannot carry another call.
  bool usable() const { return !broken; }

  Fd socket;
  std::string host;  // for the Host header
  bool broken = false;
};

// Blocks until the call is over.
absl::StatusOr<Prediction> PredictOverHttp(HttpConnection& connection, absl::string_view model,
                                           absl::Span<const TensorView> inputs,
                                           const PredictOptions& options, absl::Time deadline);

}  // namespace millrace::internal
