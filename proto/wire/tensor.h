// What a tensor is, apart from who owns its bytes.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "proto/wire/dtype.h"

namespace millrace {

inline constexpr size_t kMaxRank = 16;
inline constexpr int64_t kAnySize = -1;

// Elements along each dimension, outermost first; empty for a scalar.  In a specification, kAnySize
// stands for any.
using Shape = std::vector<int64_t>;

// "[3000,2500]", "[]" for a scalar.
std::string ToString(absl::Span<const int64_t> shape);

// Reads "3000,2500"; an empty text is a scalar.  INVALID_ARGUMENT for anything but non-negative
// decimal integers.
absl::StatusOr<Shape> ParseShape(absl::string_view text);

// Product of the dimensions.  INVALID_ARGUMENT when a dimension is negative, the rank is above
// kMaxRank, or the product does not fit 63 bits.
absl::StatusOr<uint64_t> ElementCount(absl::Span<const int64_t> shape);

// Bytes of a tensor.  Errors as ElementCount; also for DType::kUnspecified or a byte count beyond
// 63 bits.
absl::StatusOr<uint64_t> ByteSize(DType dtype, absl::Span<const int64_t> shape);

// A tensor without its bytes.
struct TensorMeta {
  std::string name;
  DType dtype = DType::kUnspecified;
  Shape shape;

  friend bool operator==(const TensorMeta&, const TensorMeta&) = default;
};

// "image: float32[3000,2500]"
std::string ToString(const TensorMeta& meta);

// A tensor whose bytes somebody else owns: little-endian, row-major, ByteSize(meta) of them.
struct TensorView {
  TensorMeta meta;
  absl::Span<const std::byte> bytes;
};

// Text that a peer sent, fit for a message or a log line: control characters and bytes beyond ASCII
// escaped, cut after `max_size` characters of it.
std::string Printable(absl::string_view text, size_t max_size = 64);

}  // namespace millrace
