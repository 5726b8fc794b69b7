// How far a prediction is, on one line of a terminal.
#pragma once

#include <absl/time/time.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace millrace {

struct Progress {
  // Over all requests.
  uint64_t sent = 0;
  uint64_t total = 0;

  int done = 0;
  int requests = 1;
  absl::Duration elapsed;
};

// "1.5 kB", "30.0 MB", "2.0 GB".
std::string FormatBytes(double bytes);

// The line, at most `width` characters:
// "[=====>    ] 55%  16.5 MB of 30.0 MB  4.90 GB/s  0:03 left  12 of 50 requests".
std::string ProgressLine(const Progress& progress, size_t width);

// Draws the line on standard error, if that is a terminal; else nothing.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();  // Clears the line.
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Draws at most ten times a second.
  void Update(const Progress& progress);

 private:
  const bool on_terminal_;
  absl::Time next_draw_;
  size_t drawn_ = 0;  // characters on the line
};

}  // namespace millrace
