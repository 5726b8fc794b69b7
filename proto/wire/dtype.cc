#include "proto/wire/dtype.h"

#include <array>

namespace millrace {
namespace {

struct Entry {
  absl::string_view name;
  size_t size;
};

constexpr std::array<Entry, kMaxDType + 1> kTypes = {{
    {"unspecified", 0},
    {"bool", 1},
    {"int8", 1},
    {"int16", 2},
    {"int32", 4},
    {"int64", 8},
    {"uint8", 1},
    {"uint16", 2},
    {"uint32", 4},
    {"uint64", 8},
    {"float16", 2},
    {"bfloat16", 2},
    {"float32", 4},
    {"float64", 8},
}};

}  // namespace

size_t ElementSize(DType dtype) { return kTypes[static_cast<size_t>(dtype)].size; }

absl::string_view Name(DType dtype) { return kTypes[static_cast<size_t>(dtype)].name; }

std::optional<DType> ParseDType(absl::string_view name) {
  for (size_t i = 1; i < kTypes.size(); ++i) {
    if (kTypes[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace millrace
