#include "server/transports/io_threads.h"

#include <spdlog/spdlog.h>

#include <exception>

#include <boost/asio/executor_work_guard.hpp>

namespace millrace {
namespace {

namespace asio = boost::asio;

// The loop's own promise that one thread runs it; any may post to it.
constexpr int kOneThread = 1;

void RunLoop(asio::io_context& loop) {
  const auto work = asio::make_work_guard(loop);
  while (true) {
    try {
      loop.run();
      return;
    } catch (const std::exception& error) {
      spdlog::error("an exception reached the event loop: {}", error.what());
    }
  }
}

}  // namespace

IoThreads::IoThreads(int count) {
  for (int i = 0; i < count; ++i) loops_.push_back(std::make_unique<asio::io_context>(kOneThread));
  for (const auto& loop : loops_) threads_.emplace_back([&loop = *loop] { RunLoop(loop); });
}

IoThreads::~IoThreads() { Stop(); }

asio::io_context& IoThreads::Next() { return *loops_[turn_++ % loops_.size()]; }

void IoThreads::Stop() {
  for (const auto& loop : loops_) loop->stop();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace millrace
