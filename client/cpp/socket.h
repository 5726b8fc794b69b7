// Connected sockets.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include <string>
#include <utility>

namespace millrace::internal {

// Where a server listens: a host and port, or the path of a unix socket.
struct Address {
  std::string host;
  std::string port;
  std::string path;
};

// Reads "HOST:PORT", "[IPV6]:PORT", "unix:/path", the first two also with "http://" in front.
absl::StatusOr<Address> ParseAddress(absl::string_view text);

// As it stands in a Host header and in messages.
std::string ToString(const Address& address);

// Owns a file descriptor.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Fd& operator=(Fd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Fd();

  int get() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }

 private:
  int fd_;
};

// A connected socket, non-blocking and without Nagle's delay.  UNAVAILABLE when nobody answers
// there, DEADLINE_EXCEEDED when nobody does in time.
absl::StatusOr<Fd> Dial(const Address& address, absl::Time deadline);

// Waits for one of poll()'s `events`, and says which came.  DEADLINE_EXCEEDED when none does.
absl::StatusOr<short> WaitFor(int fd, short events, absl::Time deadline);

}  // namespace millrace::internal
