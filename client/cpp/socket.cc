#include "client/cpp/socket.h"

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "proto/wire/tensor.h"

namespace millrace::internal {
namespace {

// For as much as the system allows: unlike TCP's, a unix socket's buffer does not grow by itself,
// and each time that it is full the server is woken for little.
constexpr int kUnixBuffer = 4 << 20;

absl::Status Unreachable(const Address& address, absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("cannot connect to ", ToString(address), ": ", why,
                                             "; is millrace-server running there?"));
}

absl::Status Connect(int fd, const sockaddr* to, socklen_t size, const Address& address,
                     absl::Time deadline) {
  if (::connect(fd, to, size) == 0) return absl::OkStatus();
  if (errno != EINPROGRESS) return Unreachable(address, ::strerror(errno));
  absl::StatusOr<short> ready = WaitFor(fd, POLLOUT, deadline);
  if (!ready.ok()) {
    return absl::DeadlineExceededError(
        absl::StrCat("cannot connect to ", ToString(address), " in time"));
  }
  int error = 0;
  socklen_t error_size = sizeof(error);
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &error_size);
  return error == 0 ? absl::OkStatus() : Unreachable(address, ::strerror(error));
}

absl::StatusOr<Fd> Open(int family) {
  Fd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (fd.get() < 0)
    return absl::InternalError(absl::StrCat("cannot open a socket: ", ::strerror(errno)));
  if (family != AF_UNIX) {
    const int on = 1;
    ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
  }
  return fd;
}

absl::StatusOr<Fd> DialUnix(const Address& address, absl::Time deadline) {
  sockaddr_un to = {};
  to.sun_family = AF_UNIX;
  if (address.path.size() >= sizeof(to.sun_path))
    return Unreachable(address, "the path is too long");
  address.path.copy(to.sun_path, address.path.size());
  absl::StatusOr<Fd> fd = Open(AF_UNIX);
  if (!fd.ok()) return fd;
  ::setsockopt(fd->get(), SOL_SOCKET, SO_SNDBUF, &kUnixBuffer, sizeof kUnixBuffer);
  const absl::Status status =
      Connect(fd->get(), reinterpret_cast<const sockaddr*>(&to), sizeof(to), address, deadline);
  if (!status.ok()) return status;
  return fd;
}

// The first of the host's addresses that answers.
absl::StatusOr<Fd> DialTcp(const Address& address, absl::Time deadline) {
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (error != 0) return Unreachable(address, ::gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  absl::Status status;
  for (const addrinfo* to = found; to != nullptr; to = to->ai_next) {
    absl::StatusOr<Fd> fd = Open(to->ai_family);
    if (!fd.ok()) return fd;
    status = Connect(fd->get(), to->ai_addr, to->ai_addrlen, address, deadline);
    if (status.ok()) return fd;
  }
  return status;
}

bool IsPort(absl::string_view text) {
  uint32_t port = 0;
  return absl::SimpleAtoi(text, &port) && port >= 1 && port <= 65535;
}

}  // namespace

absl::StatusOr<Address> ParseAddress(absl::string_view text) {
  if (absl::string_view path = text; absl::ConsumePrefix(&path, "unix:") && !path.empty()) {
    return Address{"", "", std::string(path)};
  }
  absl::string_view rest = text;
  absl::ConsumePrefix(&rest, "http://");
  absl::ConsumeSuffix(&rest, "/");
  const size_t colon = rest.rfind(':');
  absl::string_view host = rest.substr(0, colon);
  const bool bracketed = absl::ConsumePrefix(&host, "[") && absl::ConsumeSuffix(&host, "]");
  if (colon == absl::string_view::npos || host.empty() || !IsPort(rest.substr(colon + 1)) ||
      (!bracketed && absl::StrContains(host, ":"))) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", Printable(text),
                     "\" is not an address; write 127.0.0.1:8000, [::1]:8000 or unix:/path"));
  }
  return Address{std::string(host), std::string(rest.substr(colon + 1)), ""};
}

std::string ToString(const Address& address) {
  if (!address.path.empty()) return absl::StrCat("unix:", address.path);
  const bool bracketed = absl::StrContains(address.host, ":");
  return absl::StrCat(bracketed ? "[" : "", address.host, bracketed ? "]" : "", ":", address.port);
}

Fd::~Fd() {
  if (fd_ >= 0) ::close(fd_);
}

absl::StatusOr<Fd> Dial(const Address& address, absl::Time deadline) {
  return address.path.empty() ? DialTcp(address, deadline) : DialUnix(address, deadline);
}

absl::StatusOr<short> WaitFor(int fd, short events, absl::Time deadline) {
  for (;;) {
    pollfd waiting = {fd, events, 0};
    // Rounded up, so that it does not spin in the last millisecond.
    const absl::Duration left = deadline - absl::Now() + absl::Microseconds(999);
    const int64_t ms = std::clamp<int64_t>(absl::ToInt64Milliseconds(left), 0, 1 << 30);
    const int ready = ::poll(&waiting, 1, static_cast<int>(ms));
    if (ready > 0) return waiting.revents;
    if (ready < 0 && errno != EINTR) return absl::InternalError(::strerror(errno));
    if (absl::Now() >= deadline) return absl::DeadlineExceededError("no answer in time");
  }
}

}  // namespace millrace::internal
