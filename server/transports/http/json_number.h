// One JSON value into one element of a tensor.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include <cstddef>

#include "proto/wire/dtype.h"

namespace millrace {

// Writes ElementSize(dtype) bytes to `out`, which needs no alignment.  `token` has no space around
// it.
//
// Floats take JSON's numbers, read to the nearest value of the type (float16 and bfloat16 by way of
// float32), and NaN, Infinity and -Infinity as Python's json spells them; integers take numbers
// without fraction and exponent; bool takes true and false.  INVALID_ARGUMENT for anything else and
// for what does not fit.
absl::Status ParseElement(absl::string_view token, DType dtype, std::byte* out);

// The type of a value that nobody declared: bool, int64 (uint64 for what only fits that), float32
// for other numbers; kUnspecified for what is none of them.
DType DetectType(absl::string_view token);

}  // namespace millrace
