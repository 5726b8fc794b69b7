// A probe that remembers how calls ended.
#pragma once

#include <string>
#include <vector>

#include "server/core/mutex.h"
#include "server/core/probe.h"

namespace millrace {

// Thread-safe.
class RecordingProbe final : public EngineProbe {
 public:
  void OnCallDone(const CallReport& report) override {
    MutexLock lock(mu_);
    codes_.push_back(report.status.code());
  }

  std::vector<absl::StatusCode> codes() const {
    MutexLock lock(mu_);
    return codes_;
  }

 private:
  mutable Mutex mu_;
  std::vector<absl::StatusCode> codes_ ABSL_GUARDED_BY(mu_);
};

}  // namespace millrace
