#include "server/transports/http/stream.h"

#include <absl/strings/str_cat.h>
#include <poll.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <boost/asio/error.hpp>
#include <boost/asio/redirect_error.hpp>

namespace millrace {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;

absl::Status Lost(const error_code& error) {
  return absl::UnavailableError(absl::StrCat("the connection is lost: ", error.message()));
}

// What a wait ended with, other than success.
absl::Status WaitError(const error_code& error, Stream::Deadline deadline) {
  if (error != asio::error::operation_aborted) return Lost(error);
  if (deadline > std::chrono::steady_clock::now()) return absl::CancelledError("interrupted");
  return absl::DeadlineExceededError("the client was too slow");
}

// Drops the first `size` bytes.
void Advance(Buffers& buffers, size_t size) {
  while (!buffers.empty() && size >= buffers.front().size()) {
    size -= buffers.front().size();
    buffers.remove_prefix(1);
  }
  if (size > 0) buffers.front() += size;
}

// Where the next recv() goes: a longer one would keep the sender out of the socket for longer.
asio::mutable_buffer Piece(absl::Span<std::byte> space) {
  constexpr size_t kSize = 64 << 10;
  return {space.data(), std::min(space.size(), kSize)};
}

}  // namespace

Stream::Stream(Socket socket, absl::string_view first_bytes, size_t turn_size)
    : socket_(std::move(socket)),
      turn_size_(turn_size),
      ahead_(new char[kMaxAhead]),
      end_(first_bytes.copy(ahead_.get(), kMaxAhead)),
      timer_(socket_.get_executor()) {
  error_code ignored;
  socket_.non_blocking(true, ignored);
}

Async<absl::StatusOr<size_t>> Stream::ReadAhead(Deadline deadline) {
  std::memmove(ahead_.get(), ahead_.get() + begin_, end_ - begin_);
  end_ -= std::exchange(begin_, 0);
  const absl::Span<std::byte> space(reinterpret_cast<std::byte*>(ahead_.get()), kMaxAhead);
  const absl::StatusOr<size_t> size = co_await Read(space.subspan(end_), deadline);
  end_ += size.value_or(0);
  co_return size;
}

// The thread's other connections have their turns before this goes on, even if bytes are there.
Async<absl::StatusOr<size_t>> Stream::Read(absl::Span<std::byte> space, Deadline deadline) {
  space = space.first(std::min(space.size(), turn_size_));
  const asio::mutable_buffer piece = Piece(space);
  error_code error;
  EndWaitAt(deadline);
  const size_t size = co_await socket_.async_read_some(piece, asio::redirect_error(kAwait, error));
  deadline_ = kNever;
  if (error == asio::error::eof) co_return size_t{0};
  if (error) co_return WaitError(error, deadline);
  co_return size < piece.size() ? size : size + ReadOn(space.subspan(size));
}

// An error comes again with the next read.
size_t Stream::ReadOn(absl::Span<std::byte> space) {
  size_t size = 0;
  while (size < space.size()) {
    const asio::mutable_buffer piece = Piece(space.subspan(size));
    error_code error;
    const size_t got = socket_.read_some(piece, error);
    size += got;
    if (error || got < piece.size()) break;
  }
  return size;
}

absl::Status Stream::WriteSome(Buffers& buffers) {
  error_code error;
  Advance(buffers, socket_.write_some(buffers, error));
  const bool later = error == asio::error::would_block || error == asio::error::interrupted;
  return error && !later ? Lost(error) : absl::OkStatus();
}

Async<absl::Status> Stream::Write(Buffers& buffers, std::chrono::nanoseconds timeout) {
  while (true) {
    absl::Status status = WriteSome(buffers);
    if (!status.ok() || buffers.empty()) co_return status;
    error_code error;
    const Deadline deadline = std::chrono::steady_clock::now() + timeout;
    EndWaitAt(deadline);
    co_await socket_.async_wait(Socket::wait_write, asio::redirect_error(kAwait, error));
    deadline_ = kNever;
    if (!error) continue;
    status = WaitError(error, deadline);
    if (!absl::IsCancelled(status)) co_return status;
  }
}

void Stream::EndWaitAt(Deadline deadline) {
  deadline_ = deadline;
  if (deadline == kNever || (timer_runs_ && timer_.expiry() <= deadline)) return;
  timer_.expires_at(deadline);
  timer_runs_ = true;
  timer_.async_wait([self = shared_from_this()](const error_code& error) {
    if (!error) self->OnTimer();
  });
}

void Stream::OnTimer() {
  timer_runs_ = false;
  if (deadline_ > std::chrono::steady_clock::now()) return EndWaitAt(deadline_);
  Interrupt();
}

void Stream::Interrupt() {
  error_code ignored;
  socket_.cancel(ignored);
}

bool Stream::PeerLeft() {
  pollfd state = {socket_.native_handle(), POLLRDHUP, 0};
  return poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLERR | POLLHUP)) != 0;
}

Async<void> Stream::Linger(size_t max_bytes, Deadline deadline) {
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
  }
  Close();
}

void Stream::Close() {
  timer_.cancel();
  error_code ignored;
  socket_.close(ignored);
}

}  // namespace millrace
