#include "client/cli/progress_bar.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/time/clock.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>

namespace millrace {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(100);
constexpr size_t kMinBar = 10;
constexpr size_t kMaxBar = 40;

std::string FormatTime(absl::Duration time) {
  // A time left that is beyond any display is not known at all.
  const int64_t seconds =
      std::min<int64_t>(absl::ToInt64Seconds(absl::Ceil(time, absl::Seconds(1))), 359999);
  if (seconds < 3600) return absl::StrFormat("%d:%02d", seconds / 60, seconds % 60);
  return absl::StrFormat("%d:%02d:%02d", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

std::string Bar(double fraction, size_t size) {
  const size_t filled = static_cast<size_t>(fraction * static_cast<double>(size));
  std::string bar(filled, '=');
  if (filled < size) bar += '>';
  bar.resize(size, ' ');
  return absl::StrCat("[", bar, "] ");
}

std::string Numbers(const Progress& progress, double fraction) {
  const double seconds = absl::ToDoubleSeconds(progress.elapsed);
  std::string text = absl::StrFormat("%d%%  %s of %s", static_cast<int>(fraction * 100),
                                     FormatBytes(static_cast<double>(progress.sent)),
                                     FormatBytes(static_cast<double>(progress.total)));
  if (seconds > 0)
    absl::StrAppendFormat(&text, "  %.2f GB/s", static_cast<double>(progress.sent) / seconds / 1e9);
  if (progress.done == progress.requests || progress.sent == progress.total) {
    absl::StrAppend(&text, "  waiting for the answer");
  } else if (fraction > 0) {
    absl::StrAppend(&text, "  ", FormatTime(progress.elapsed * ((1 - fraction) / fraction)),
                    " left");
  }
  if (progress.requests > 1)
    absl::StrAppend(&text, "  ", progress.done, " of ", progress.requests, " requests");
  return text;
}

size_t TerminalWidth() {
  winsize size = {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
  return size.ws_col;
}

}  // namespace

std::string FormatBytes(double bytes) {
  constexpr const char* kUnits[] = {"kB", "MB", "GB", "TB", "PB", "EB"};
  if (bytes < 1000) return absl::StrFormat("%.0f B", bytes);
  size_t unit = 0;
  // 999.95 would be written as 1000.0.
  for (bytes /= 1000; bytes >= 999.95 && unit + 1 < std::size(kUnits); bytes /= 1000) ++unit;
  return absl::StrFormat("%.1f %s", bytes, kUnits[unit]);
}

std::string ProgressLine(const Progress& progress, size_t width) {
  const double fraction = progress.total == 0 ? 1
                                              : static_cast<double>(progress.sent) /
                                                    static_cast<double>(progress.total);
  const std::string numbers = Numbers(progress, fraction);
  const size_t frame = Bar(0, 0).size();
  if (numbers.size() + frame + kMinBar > width) return numbers.substr(0, width);
  return Bar(fraction, std::min(kMaxBar, width - numbers.size() - frame)) + numbers;
}

ProgressBar::ProgressBar()
    : on_terminal_(::isatty(STDERR_FILENO) == 1), next_draw_(absl::Now() + kInterval) {}

ProgressBar::~ProgressBar() {
  if (drawn_ > 0) absl::FPrintF(stderr, "\r%*s\r", static_cast<int>(drawn_), "");
}

void ProgressBar::Update(const Progress& progress) {
  if (!on_terminal_ || absl::Now() < next_draw_) return;
  next_draw_ = absl::Now() + kInterval;
  std::string line = ProgressLine(progress, TerminalWidth() - 1);
  const size_t size = line.size();
  line.resize(std::max(size, drawn_), ' ');  // Over what stood there.
  absl::FPrintF(stderr, "\r%s", line);
  drawn_ = size;
}

}  // namespace millrace
