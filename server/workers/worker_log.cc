#include "server/workers/worker_log.h"

#include <simdjson.h>
#include <spdlog/spdlog.h>

namespace millrace {
namespace {

constexpr size_t kMaxLines = 10'000;
constexpr size_t kMaxLine = 2000;

}  // namespace

WorkerLog::WorkerLog() : thread_([this] { Write(); }) {}

WorkerLog::~WorkerLog() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void WorkerLog::Add(spdlog::level::level_enum level, std::string line) {
  MutexLock lock(mu_);
  if (lines_.size() >= kMaxLines) {
    ++left_out_;
    return;
  }
  lines_.emplace_back(level, std::move(line));
  changed_.NotifyOne();
}

void WorkerLog::Write() {
  while (true) {
    std::deque<std::pair<spdlog::level::level_enum, std::string>> lines;
    uint64_t left_out = 0;
    {
      MutexLock lock(mu_);
      while (lines_.empty() && !stopping_) changed_.Wait(mu_);
      if (lines_.empty()) return;
      std::swap(lines, lines_);
      std::swap(left_out, left_out_);
    }
    for (const auto& [level, line] : lines) spdlog::log(level, "{}", line);
    if (left_out > 0) spdlog::warn("{} lines of workers came too fast and were left out", left_out);
  }
}

void LineCutter::Add(absl::string_view bytes, absl::FunctionRef<void(std::string)> on_line) {
  for (const char c : bytes) {
    const bool ends = c == '\n' || c == '\r';
    if (!ends) line_ += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    if (ends || line_.size() == kMaxLine) Finish(on_line);
  }
}

void LineCutter::Finish(absl::FunctionRef<void(std::string)> on_line) {
  if (line_.empty()) return;
  if (!simdjson::validate_utf8(line_)) {
    for (char& c : line_) {
      if (static_cast<unsigned char>(c) >= 0x80) c = '?';
    }
  }
  on_line(std::exchange(line_, ""));
}

}  // namespace millrace
