// JSON numbers into elements of a tensor.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <cstdint>

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

// Bytes behind a text that ReadElements() may read; zero, as the text ends with a NUL.
inline constexpr size_t kJsonPadding = 8;

// Reads up to `most` elements with the commas between them, as ParseElement(), but fast: it stops
// at whatever is not plain, such as more than one space, a number of more than 19 digits, or an
// error.  Returns the end of the last element; `count` says how many there were, 0 if the first was
// not plain.
const char* ReadElements(const char* at, DType dtype, uint64_t most, std::byte* out,
                         uint64_t& count);

// The type of a value that nobody declared: bool, int64 (uint64 for what only fits that), float32
// for other numbers; kUnspecified for what is none of them.
DType DetectType(absl::string_view token);

}  // namespace millrace
