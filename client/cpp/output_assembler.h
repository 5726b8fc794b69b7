// Copies the bytes of an answer to where they stay.
#pragma once

#include <absl/status/status.h>
#include <absl/types/span.h>
#include <millrace/client.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace millrace::internal {

// The server, or something between, broke the protocol.
absl::Status BrokenAnswer(absl::string_view what);

// The outputs of one answer, filled in order.
class OutputAssembler {
 public:
  // Allocates the outputs, exactly.  Requires that it was not called before.
  absl::Status Declare(std::vector<TensorMeta> metas);

  // Copies the next bytes.  An error when the outputs have no room for them.
  absl::Status Append(absl::Span<const std::byte> bytes);

  // Where the next bytes belong, at most up to the end of one output; empty when all are there.
  // Whoever writes there calls Advance().
  absl::Span<std::byte> Room();
  void Advance(size_t size);

  // The outputs.  An error when bytes are missing.
  absl::StatusOr<std::vector<OutputTensor>> Take();

 private:
  std::vector<OutputTensor> outputs_;
  size_t current_ = 0;  // the output that is being filled
  size_t filled_ = 0;   // of its bytes
};

}  // namespace millrace::internal
