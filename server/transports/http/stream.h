// A connection's bytes in both directions, with waits that end early.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/steady_timer.hpp>

#include "server/transports/connection.h"

namespace millrace {

// Everything runs on the socket's strand, one read or write at a time.  Nothing throws.
//
// Errors: DEADLINE_EXCEEDED; UNAVAILABLE when the connection is lost; CANCELLED when Interrupt()
// ended the wait, or in rare cases for nothing: look at what might have changed, then call again.
//
// Shared by the session and by the timer handler that is under way.
class Stream : public std::enable_shared_from_this<Stream> {
 public:
  using Deadline = std::chrono::steady_clock::time_point;
  static constexpr Deadline kNever = Deadline::max();

  // `first_bytes` come before what is in the socket; `read_size` bytes are asked of it at a time.
  Stream(Socket socket, std::string first_bytes, size_t read_size);

  // Bytes that came and were not consumed.
  absl::string_view ahead() const { return absl::string_view(buffer_).substr(consumed_); }
  void Consume(size_t size);

  // Receives some bytes behind ahead().  Returns how many; 0 when the client has sent its last.
  boost::asio::awaitable<absl::StatusOr<size_t>> ReadAhead(Deadline deadline);

  // Receives into `space`.  Requires that ahead() is empty.  Returns as ReadAhead.
  boost::asio::awaitable<absl::StatusOr<size_t>> Read(absl::Span<std::byte> space,
                                                      Deadline deadline);

  // Sends all of the buffers, of which some bytes must go in every `timeout`.
  boost::asio::awaitable<absl::Status> Write(std::vector<boost::asio::const_buffer> buffers,
                                             std::chrono::nanoseconds timeout);

  // Ends the wait that is under way, if any, with CANCELLED.
  void Interrupt();

  // True if the client has closed its side or the connection is lost, whatever it sent before that.
  bool PeerLeft();

  // Closes so that the client can read what was sent to it: says that nothing more comes, then
  // throws away at most `max_bytes` of what it sends, until it closes or the deadline passes.
  boost::asio::awaitable<void> Linger(size_t max_bytes, Deadline deadline);

  void Close();

  Socket::executor_type executor() { return socket_.get_executor(); }

 private:
  boost::asio::awaitable<absl::Status> Wait(Socket::wait_type type, Deadline deadline);
  boost::asio::awaitable<void> BeFair(size_t size);

  Socket socket_;
  boost::asio::steady_timer timer_;
  std::string buffer_;
  size_t consumed_ = 0;
  const size_t read_size_;
  bool interrupted_ = false;  // since the last wait began
  size_t since_pause_ = 0;    // bytes since the last wait, during which others could run
};

}  // namespace millrace
