#include "server/transports/http/stream.h"

#include <absl/strings/str_cat.h>
#include <poll.h>

#include <algorithm>
#include <utility>

#include <boost/asio/error.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace millrace {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

constexpr size_t kAheadSize = 16 << 10;
constexpr size_t kFairShare = 1 << 20;

bool WouldBlock(const error_code& error) {
  return error == asio::error::would_block || error == asio::error::try_again ||
         error == asio::error::interrupted;
}

absl::Status Lost(const error_code& error) {
  return absl::UnavailableError(absl::StrCat("the connection is lost: ", error.message()));
}

// Drops the first `size` bytes of the buffers.
void Advance(std::vector<asio::const_buffer>& buffers, size_t size) {
  size_t whole = 0;
  while (whole < buffers.size() && size >= buffers[whole].size()) size -= buffers[whole++].size();
  buffers.erase(buffers.begin(), buffers.begin() + static_cast<ptrdiff_t>(whole));
  if (size > 0) buffers.front() += size;
}

}  // namespace

Stream::Stream(Socket socket, std::string first_bytes, size_t read_size)
    : socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      buffer_(std::move(first_bytes)),
      read_size_(read_size) {
  error_code ignored;  // A unix socket has no such option.
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);
  socket_.non_blocking(true, ignored);
}

void Stream::Consume(size_t size) {
  consumed_ += size;
  if (consumed_ < buffer_.size()) return;
  buffer_.clear();
  consumed_ = 0;
}

asio::awaitable<absl::StatusOr<size_t>> Stream::ReadAhead(Deadline deadline) {
  buffer_.erase(0, consumed_);
  consumed_ = 0;
  const size_t old_size = buffer_.size();
  while (true) {
    error_code error;
    buffer_.resize(old_size + kAheadSize);
    const size_t size =
        socket_.read_some(asio::buffer(buffer_.data() + old_size, kAheadSize), error);
    buffer_.resize(old_size + size);
    if (!error) co_return size;
    if (error == asio::error::eof) co_return size_t{0};
    if (!WouldBlock(error)) co_return Lost(error);
    const absl::Status waited = co_await Wait(Socket::wait_read, deadline);
    if (!waited.ok()) co_return waited;
  }
}

asio::awaitable<absl::StatusOr<size_t>> Stream::Read(absl::Span<std::byte> space,
                                                     Deadline deadline) {
  space = space.first(std::min(space.size(), read_size_));
  while (true) {
    error_code error;
    const size_t size = socket_.read_some(asio::buffer(space.data(), space.size()), error);
    if (!error) {
      co_await BeFair(size);
      co_return size;
    }
    if (error == asio::error::eof) co_return size_t{0};
    if (!WouldBlock(error)) co_return Lost(error);
    const absl::Status waited = co_await Wait(Socket::wait_read, deadline);
    if (!waited.ok()) co_return waited;
  }
}

asio::awaitable<absl::Status> Stream::Write(std::vector<asio::const_buffer> buffers,
                                            std::chrono::nanoseconds timeout) {
  Advance(buffers, 0);
  while (!buffers.empty()) {
    error_code error;
    const size_t size = socket_.write_some(buffers, error);
    if (!error) {
      Advance(buffers, size);
      co_await BeFair(size);
      continue;
    }
    if (!WouldBlock(error)) co_return Lost(error);
    const absl::Status waited =
        co_await Wait(Socket::wait_write, std::chrono::steady_clock::now() + timeout);
    if (!waited.ok() && !absl::IsCancelled(waited)) co_return waited;
  }
  co_return absl::OkStatus();
}

asio::awaitable<absl::Status> Stream::Wait(Socket::wait_type type, Deadline deadline) {
  since_pause_ = 0;
  interrupted_ = false;
  if (deadline != kNever) {
    timer_.expires_at(deadline);
    timer_.async_wait([self = shared_from_this()](const error_code& error) {
      if (!error) self->Interrupt();
    });
  }
  error_code error;
  co_await socket_.async_wait(type, asio::redirect_error(asio::use_awaitable, error));
  if (deadline != kNever) timer_.cancel();
  if (error && error != asio::error::operation_aborted) co_return Lost(error);
  if (!interrupted_) co_return absl::OkStatus();
  if (deadline <= std::chrono::steady_clock::now()) {
    co_return absl::DeadlineExceededError("the client was too slow");
  }
  co_return absl::CancelledError("interrupted");
}

asio::awaitable<void> Stream::BeFair(size_t size) {
  since_pause_ += size;
  if (since_pause_ < kFairShare) co_return;
  since_pause_ = 0;
  co_await asio::post(executor(), asio::use_awaitable);
}

// The wait may have ended already, its result being on the way: the flag says what cancel() then
// cannot.
void Stream::Interrupt() {
  interrupted_ = true;
  error_code ignored;
  socket_.cancel(ignored);
}

bool Stream::PeerLeft() {
  pollfd state = {socket_.native_handle(), POLLRDHUP, 0};
  return poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLERR | POLLHUP)) != 0;
}

asio::awaitable<void> Stream::Linger(size_t max_bytes, Deadline deadline) {
  error_code ignored;
  socket_.shutdown(Socket::shutdown_send, ignored);
  size_t dropped = ahead().size();
  Consume(dropped);
  while (dropped < max_bytes) {
    const absl::StatusOr<size_t> size = co_await ReadAhead(deadline);
    if (absl::IsCancelled(size.status())) continue;
    if (!size.ok() || *size == 0) break;
    dropped += *size;
    Consume(*size);
    co_await BeFair(*size);
  }
  Close();
}

void Stream::Close() {
  timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace millrace
