// Blocking sockets, with nothing around them.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <cstddef>
#include <string>

#include "client/cpp/socket.h"

namespace millrace::bench {

// The fastest size of a write, measured.
inline constexpr size_t kWriteSize = 1 << 20;

// `address` as Client::Connect() has it.
absl::StatusOr<internal::Fd> ConnectTo(const std::string& address);
absl::StatusOr<internal::Fd> ListenOn(const std::string& address);

// UNAVAILABLE when the peer has hung up.
absl::Status SendAll(int fd, absl::Span<const std::byte> bytes);

// Fills `room`, at most `read_size` bytes at a time.
absl::Status ReceiveAll(int fd, absl::Span<std::byte> room, size_t read_size);

// What has come, at least one byte.
absl::StatusOr<size_t> ReceiveSome(int fd, absl::Span<std::byte> room);

template <typename T>
absl::Span<std::byte> BytesOf(T& value) {
  return {reinterpret_cast<std::byte*>(&value), sizeof(value)};
}

}  // namespace millrace::bench
