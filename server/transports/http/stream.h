// A connection's bytes in both directions, with waits that end early.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <chrono>
#include <cstddef>
#include <memory>

#include <boost/asio/buffer.hpp>

#include "server/transports/connection.h"

namespace millrace {

// What is to be sent, in order.  The caller keeps the array and the bytes.
using Buffers = absl::Span<boost::asio::const_buffer>;

// Everything runs on the socket's thread, one read or write at a time.  Nothing throws.
//
// Errors: DEADLINE_EXCEEDED; UNAVAILABLE when the connection is lost; CANCELLED when Interrupt()
// ended the wait, or in rare cases for nothing: look at what might have changed, then call again.
//
// Shared by the session and by the timer handler that is under way.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  static constexpr Deadline kNever = Deadline::max();

  // The most that may be ahead().
  static constexpr size_t kMaxAhead = 16 << 10;

  // `first_bytes`, at most kMaxAhead, come before what is in the socket; `turn_size` bytes are
  // received at a time.
  Stream(Socket socket, absl::string_view first_bytes, size_t turn_size);

  // Bytes that came and were not consumed.
  absl::string_view ahead() const { return {ahead_.get() + begin_, end_ - begin_}; }
  void Consume(size_t size) { begin_ += size; }

  // Receives some bytes behind ahead(), which must be less than kMaxAhead.  Returns how many; 0
  // when the client has sent its last.
  Async<absl::StatusOr<size_t>> ReadAhead(Deadline deadline);

  // Receives into `space`.  Requires that ahead() is empty.  Returns as ReadAhead.
  Async<absl::StatusOr<size_t>> Read(absl::Span<std::byte> space, Deadline deadline);

  // Sends what the socket takes at once, and takes that off the buffers.
  absl::Status WriteSome(Buffers& buffers);

  // Sends the rest of the buffers, of which some bytes must go in every `timeout`.
  Async<absl::Status> Write(Buffers& buffers, std::chrono::nanoseconds timeout);

  // Ends the wait that is under way, if any, with CANCELLED.
  void Interrupt();

  // True if the client has closed its side or the connection is lost, whatever it sent before that.
  bool PeerLeft();

  // Closes so that the client can read what was sent to it: says that nothing more comes, then
  // throws away at most `max_bytes` of what it sends, until it closes or the deadline passes.
  Async<void> Linger(size_t max_bytes, Deadline deadline);

  void Close();

  const Executor& executor() { return socket_.get_executor(); }

 private:
  size_t ReadOn(absl::Span<std::byte> space);
  void EndWaitAt(Deadline deadline);
  void OnTimer();

  Socket socket_;
  const size_t turn_size_;
  const std::unique_ptr<char[]> ahead_;
  size_t begin_ = 0;
  size_t end_;

  // Of the wait that is under way.  The timer goes on from one wait to the next, because most waits
  // are over long before their deadline: it is only ever set when it would come too late.
  Deadline deadline_ = kNever;
  Timer timer_;
  bool timer_runs_ = false;
};

}  // namespace millrace
