// The threads that do input and output: each runs an event loop of its own.
//
// A connection belongs to one of them from its acceptance to its end, so that what runs for it is
// never concurrent with itself, needs no lock, and wakes no other thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <thread>
#include <vector>

#include <boost/asio/io_context.hpp>

namespace millrace {

// Stop() and destruction belong to the thread that built it; the rest is thread-safe.
class IoThreads {
 public:
  explicit IoThreads(int count);
  ~IoThreads();  // Stops.  What still waits in the loops is destroyed here, on this thread.

  // A loop for a new connection: each in turn.
  boost::asio::io_context& Next();

  // The loop for what there is one of.
  boost::asio::io_context& first() { return *loops_.front(); }

  // Returns when no thread runs any more; nothing runs in the loops from then on.  Idempotent.
  void Stop();

 private:
  std::vector<std::unique_ptr<boost::asio::io_context>> loops_;
  std::atomic<size_t> turn_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace millrace
