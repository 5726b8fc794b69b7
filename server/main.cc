#include <absl/synchronization/mutex.h>
#include <malloc.h>

#include <cstdio>

#include "server/config.h"
#include "server/ops/logging.h"
#include "server/serve.h"

namespace {

// gRPC receives into blocks that it takes from the heap and frees again; by default glibc would
// give their pages back to the system after every request, and fault them in for the next.  One
// heap for all threads, or else each of them would keep the most that it ever needed.
void KeepHeapPages() {
  mallopt(M_TRIM_THRESHOLD, 2047 << 20);
  mallopt(M_ARENA_MAX, 1);
}

// Distributions build Abseil with its search for deadlocks, which every lock of gRPC's pays for.
void TrustGrpcsLocks() { absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore); }

int Fail(const absl::Status& status) {
  std::fprintf(stderr, "millrace-server: %s\n", std::string(status.message()).c_str());
  return absl::IsInvalidArgument(status) ? 2 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  KeepHeapPages();
  TrustGrpcsLocks();
  const absl::StatusOr<std::optional<millrace::Config>> config = millrace::ParseConfig(argc, argv);
  if (!config.ok()) return Fail(config.status());
  if (!config->has_value()) return 0;
  millrace::StartLogging((*config)->log_format, (*config)->log_level);
  if (const absl::Status status = millrace::Serve(**config); !status.ok()) return Fail(status);
  return 0;
}
