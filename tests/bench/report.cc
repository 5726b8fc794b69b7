#include "tests/bench/report.h"

#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace millrace::bench {
namespace {

double CpuSeconds() {
  timespec time;
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

}  // namespace

void WaitForGo() {
  std::puts("ready");
  std::fflush(stdout);
  if (std::getchar() == EOF) std::exit(1);
}

double Now() {
  using std::chrono::steady_clock;
  return std::chrono::duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

Meter::Meter() : start_(Now()), cpu_(CpuSeconds()) {}

void Meter::Report(const std::vector<double>& milliseconds) const {
  const double cpu = CpuSeconds() - cpu_;
  std::printf("{\"wall_s\": %.6f, \"cpu_s\": %.6f, \"ms\": [", (Now() - start_) / 1e3, cpu);
  for (size_t i = 0; i < milliseconds.size(); ++i) {
    std::printf("%s%.4f", i > 0 ? ", " : "", milliseconds[i]);
  }
  std::puts("]}");
}

}  // namespace millrace::bench
