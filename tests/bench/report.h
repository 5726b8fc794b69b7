// How a client and the script that runs it talk: the client says "ready" when it has warmed up,
// waits for a line, and reports on its last line what it measured, as JSON.
#pragma once

#include <vector>

namespace millrace::bench {

// Says "ready"; returns when the script says go.  Ends the program if the script has gone.
void WaitForGo();

// Milliseconds on a clock that only goes forward.
double Now();

// The processor time of this process, from construction on, and the time.
class Meter {
 public:
  Meter();

  // Prints the report.
  void Report(const std::vector<double>& milliseconds) const;

 private:
  const double start_;
  const double cpu_;
};

}  // namespace millrace::bench
