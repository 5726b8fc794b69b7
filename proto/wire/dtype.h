// The element types that a tensor may have.
//
// The numbers are those of millrace.v1.DataType, so that the two convert by a cast.
#pragma once

#include <absl/strings/string_view.h>

#include <cstddef>
#include <cstdint>
#include <optional>

namespace millrace {

enum class DType : uint8_t {
  kUnspecified = 0,
  kBool = 1,
  kInt8 = 2,
  kInt16 = 3,
  kInt32 = 4,
  kInt64 = 5,
  kUint8 = 6,
  kUint16 = 7,
  kUint32 = 8,
  kUint64 = 9,
  kFloat16 = 10,
  kBfloat16 = 11,
  kFloat32 = 12,
  kFloat64 = 13,
};

inline constexpr int kMaxDType = 13;

// Bytes of one element; 0 for kUnspecified.
size_t ElementSize(DType dtype);

// NumPy's name of the type in lower case, such as "float32"; "unspecified" for kUnspecified.
absl::string_view Name(DType dtype);

// The type of that name.
std::optional<DType> ParseDType(absl::string_view name);

}  // namespace millrace
