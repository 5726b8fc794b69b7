// One client of a server.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <functional>
#include <memory>
#include <string>

#include "tests/bench/image.h"

namespace millrace::bench {

// Used by one thread at a time.
class Sender {
 public:
  virtual ~Sender() = default;

  // Sends a tensor and checks the answer.
  virtual absl::Status Send() = 0;
};

struct SenderOptions {
  std::string address;

  // duplex, stream, unary, http: our client library.  npy, json: a plain HTTP POST.  ceiling: a
  // plain socket.  mixed: the library's ways in turn, with images of a hundred sizes up to the one
  // asked for.
  std::string way;

  // For the ceiling: how much its server reads at a time.
  uint64_t read_size = 256 << 10;
};

// Makes senders that share the image, which must outlive them, and what is made of it.
// INVALID_ARGUMENT for an unknown way.
using SenderFactory = std::function<absl::StatusOr<std::unique_ptr<Sender>>()>;
absl::StatusOr<SenderFactory> MakeSenderFactory(SenderOptions options, const Image& image);

}  // namespace millrace::bench
