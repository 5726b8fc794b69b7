#include "proto/wire/tensor.h"

#include <absl/strings/escaping.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>

namespace millrace {

std::string ToString(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ","), "]");
}

absl::StatusOr<Shape> ParseShape(absl::string_view text) {
  Shape shape;
  if (text.empty()) return shape;
  for (absl::string_view part : absl::StrSplit(text, ',')) {
    int64_t size = 0;
    const bool digits = part.find_first_not_of("0123456789") == absl::string_view::npos;
    if (!digits || !absl::SimpleAtoi(part, &size)) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", Printable(text), "\" is not a shape; write it as 3000,2500"));
    }
    if (shape.size() == kMaxRank) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", Printable(text), "\" has more than ", kMaxRank, " dimensions"));
    }
    shape.push_back(size);
  }
  return shape;
}

absl::StatusOr<uint64_t> ElementCount(absl::Span<const int64_t> shape) {
  if (shape.size() > kMaxRank) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a shape of ", shape.size(), " dimensions; at most ", kMaxRank, " are allowed"));
  }
  uint64_t count = 1;
  bool overflow = false;
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("shape ", ToString(shape), " has a negative dimension"));
    }
    if (size == 0) empty = true;
    overflow |= __builtin_mul_overflow(count, static_cast<uint64_t>(size), &count);
  }
  if (empty) return 0;
  if (overflow || count > INT64_MAX) {
    return absl::InvalidArgumentError(
        absl::StrCat("shape ", ToString(shape), " has more elements than 63 bits count"));
  }
  return count;
}

absl::StatusOr<uint64_t> ByteSize(DType dtype, absl::Span<const int64_t> shape) {
  if (dtype == DType::kUnspecified)
    return absl::InvalidArgumentError("a tensor without a data type");
  absl::StatusOr<uint64_t> count = ElementCount(shape);
  if (!count.ok()) return count;
  uint64_t bytes = 0;
  if (__builtin_mul_overflow(*count, ElementSize(dtype), &bytes) || bytes > INT64_MAX) {
    return absl::InvalidArgumentError(absl::StrCat("shape ", ToString(shape), " of ", Name(dtype),
                                                   " has more bytes than 63 bits count"));
  }
  return bytes;
}

std::string ToString(const TensorMeta& meta) {
  return absl::StrCat(Printable(meta.name), ": ", Name(meta.dtype), ToString(meta.shape));
}

std::string Printable(absl::string_view text, size_t max_size) {
  const bool cut = text.size() > max_size;
  return absl::StrCat(absl::CHexEscape(text.substr(0, max_size)), cut ? "..." : "");
}

}  // namespace millrace
