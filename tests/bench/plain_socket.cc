#include "tests/bench/plain_socket.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cstdlib>

namespace millrace::bench {
namespace {

absl::Status Failed(const char* what) {
  return absl::UnavailableError(absl::StrCat(what, ": ", ::strerror(errno)));
}

absl::StatusOr<internal::Fd> Listen(const sockaddr* address, socklen_t size) {
  internal::Fd fd(::socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  if (::bind(fd.get(), address, size) != 0) return Failed("bind");
  if (::listen(fd.get(), SOMAXCONN) != 0) return Failed("listen");
  return fd;
}

}  // namespace

absl::StatusOr<internal::Fd> ConnectTo(const std::string& address) {
  absl::StatusOr<internal::Address> parsed = internal::ParseAddress(address);
  if (!parsed.ok()) return parsed.status();
  absl::StatusOr<internal::Fd> fd = internal::Dial(*parsed, absl::Now() + absl::Seconds(5));
  if (!fd.ok()) return fd.status();
  const int flags = ::fcntl(fd->get(), F_GETFL);
  if (::fcntl(fd->get(), F_SETFL, flags & ~O_NONBLOCK) != 0) return Failed("fcntl");
  return fd;
}

absl::StatusOr<internal::Fd> ListenOn(const std::string& address) {
  absl::StatusOr<internal::Address> parsed = internal::ParseAddress(address);
  if (!parsed.ok()) return parsed.status();
  if (!parsed->path.empty()) {
    sockaddr_un local = {};
    local.sun_family = AF_UNIX;
    parsed->path.copy(local.sun_path, sizeof(local.sun_path) - 1);
    return Listen(reinterpret_cast<sockaddr*>(&local), sizeof(local));
  }
  sockaddr_in local = {};
  local.sin_family = AF_INET;
  local.sin_port = htons(static_cast<uint16_t>(std::atoi(parsed->port.c_str())));
  if (::inet_pton(AF_INET, parsed->host.c_str(), &local.sin_addr) != 1) {
    return absl::InvalidArgumentError(absl::StrCat("no IPv4 address: ", address));
  }
  return Listen(reinterpret_cast<sockaddr*>(&local), sizeof(local));
}

absl::Status SendAll(int fd, absl::Span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd, bytes.data(), std::min(bytes.size(), kWriteSize), MSG_NOSIGNAL);
    if (n < 0 && errno != EINTR) return Failed("send");
    if (n > 0) bytes.remove_prefix(n);
  }
  return absl::OkStatus();
}

absl::Status ReceiveAll(int fd, absl::Span<std::byte> room, size_t read_size) {
  while (!room.empty()) {
    const absl::StatusOr<size_t> n = ReceiveSome(fd, room.subspan(0, read_size));
    if (!n.ok()) return n.status();
    room.remove_prefix(*n);
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> ReceiveSome(int fd, absl::Span<std::byte> room) {
  for (;;) {
    const ssize_t n = ::recv(fd, room.data(), room.size(), 0);
    if (n > 0) return n;
    if (n == 0) return absl::UnavailableError("the peer has hung up");
    if (errno != EINTR) return Failed("recv");
  }
}

}  // namespace millrace::bench
