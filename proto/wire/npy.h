// The header of NumPy's .npy format, versions 1.0 to 3.0.
//
// Source: numpy/lib/format.py, "Format Version 1.0" and following: magic "\x93NUMPY", two version
// bytes, a little-endian header length (2 bytes in version 1, 4 after it), then a Python dict
// literal with `descr`, `fortran_order` and `shape`. The literal is read by a small grammar of
// exactly that; nothing is evaluated.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "proto/wire/tensor.h"

namespace millrace {

// Bytes that suffice to know the size of a header.
inline constexpr size_t kNpyPreambleSize = 12;

// Headers above this are refused.
inline constexpr size_t kMaxNpyHeaderSize = 64 << 10;

// Bytes before the first element, told by at least the first kNpyPreambleSize bytes of a file (a
// shorter `prefix` is an error).  INVALID_ARGUMENT when it is no .npy file, of an unknown version,
// or its header is above kMaxNpyHeaderSize.
absl::StatusOr<size_t> NpyHeaderSize(absl::string_view prefix);

// Type and shape, from a whole header (NpyHeaderSize() bytes); the name is empty.
//
// Accepted: the little-endian and single-byte types of DType that NumPy has (not bfloat16), in C
// order; and Fortran order where it is the same as C order (at most one dimension other than 1).
// INVALID_ARGUMENT for big-endian types, Fortran order, object, string, structured and complex
// types, with a text that says what to call on the array first.
absl::StatusOr<TensorMeta> ParseNpyHeader(absl::string_view header);

// A version 1.0 header for the tensor, padded so that the elements start at a multiple of 64 bytes.
// bfloat16, which NumPy lacks, is written as uint16.
std::string NpyHeader(const TensorMeta& meta);

}  // namespace millrace
