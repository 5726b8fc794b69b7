// What the engine tells about its work: the seam between it and logs, metrics and tests.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include <string>

namespace millrace {

// Where the time of a call went.  A step that was not reached is zero.
struct Timing {
  absl::Duration admit;    // waiting for room in the arena
  absl::Duration receive;  // from admission to the last byte
  absl::Duration queue;    // waiting for a thread
  absl::Duration compute;  // in the model, since the last byte
};

// "admit;dur=0.000, receive;dur=5.210, queue;dur=0.012, compute;dur=0.480": milliseconds, as HTTP's
// Server-Timing has it (https://www.w3.org/TR/server-timing/).
std::string ServerTiming(const Timing& timing);

// One call that has ended.
struct CallReport {
  absl::string_view way;  // such as "grpc-stream"
  absl::string_view model;
  absl::string_view version;
  absl::string_view request_id;
  uint64_t bytes_received = 0;
  const absl::Status& status;
  const Timing& timing;
};

// Thread-safe.  Called from the engine's and the transports' threads; must not block.
class EngineProbe {
 public:
  virtual ~EngineProbe() = default;

  virtual void OnCallDone(const CallReport& report) = 0;
};

}  // namespace millrace
