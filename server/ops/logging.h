// Log lines on standard error.
#pragma once

#include <absl/status/status.h>

#include "server/core/probe.h"

namespace millrace {

enum class LogFormat { kText, kJson };
enum class LogLevel { kDebug, kInfo, kWarn, kError };

// Sets up spdlog's default logger.  JSON: one object a line with time (ISO 8601, UTC), level and
// message.
void StartLogging(LogFormat format, LogLevel level);

// Logs every call that ends: one that the server failed (INTERNAL, UNKNOWN, DATA_LOSS) as a
// warning, others at debug level.
class CallLog final : public EngineProbe {
 public:
  void OnCallDone(const CallReport& report) override;
};

}  // namespace millrace
