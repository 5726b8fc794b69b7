// Messages with descriptors, over a pair of AF_UNIX sockets that keep them apart.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include "server/workers/fd.h"

namespace millrace {

struct SocketPair {
  Fd ours;    // does not block
  Fd theirs;  // blocks
};

absl::StatusOr<SocketPair> MakeSocketPair();

// False when the other side is gone, or does not take it now.
bool SendMessage(int socket, absl::string_view message, absl::Span<const int> fds = {});

enum class Received { kMessage, kNothing, kClosed, kTooLong };

// The next message, in `buffer`; kNothing when none is here yet.
Received ReceiveMessage(int socket, absl::Span<char> buffer, absl::string_view& message);

}  // namespace millrace
