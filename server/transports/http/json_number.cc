#include "server/transports/http/json_number.h"

#include <absl/strings/charconv.h>
#include <absl/strings/str_cat.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>

#include "proto/wire/tensor.h"
#include "proto/wire/text.h"

namespace millrace {
namespace {

const char* SkipDigits(const char* at, const char* end) {
  while (at != end && *at >= '0' && *at <= '9') ++at;
  return at;
}

// Past "-", then 0 or digits without a leading 0; null if there is no such thing.
const char* SkipInteger(const char* at, const char* end) {
  if (at != end && *at == '-') ++at;
  const char* const first = at;
  at = SkipDigits(at, end);
  if (at == first || (*first == '0' && at - first > 1)) return nullptr;
  return at;
}

bool IsInteger(absl::string_view token) {
  const char* const end = token.data() + token.size();
  return SkipInteger(token.data(), end) == end;
}

// The grammar of RFC 8259, section 6.
bool IsNumber(absl::string_view token) {
  const char* const end = token.data() + token.size();
  const char* at = SkipInteger(token.data(), end);
  if (at == nullptr) return false;
  if (at != end && *at == '.') {
    const char* const first = at + 1;
    at = SkipDigits(first, end);
    if (at == first) return false;
  }
  if (at != end && (*at == 'e' || *at == 'E')) {
    ++at;
    if (at != end && (*at == '+' || *at == '-')) ++at;
    const char* const first = at;
    at = SkipDigits(first, end);
    if (at == first) return false;
  }
  return at == end;
}

template <typename T>
std::optional<T> NotFinite(absl::string_view token) {
  if (token == "NaN") return std::numeric_limits<T>::quiet_NaN();
  if (token == "Infinity") return std::numeric_limits<T>::infinity();
  if (token == "-Infinity") return -std::numeric_limits<T>::infinity();
  return std::nullopt;
}

absl::Status IsNo(absl::string_view token, DType dtype) {
  return absl::InvalidArgumentError(absl::StrCat(Printable(token, 32), " is no ", Name(dtype)));
}

absl::Status DoesNotFit(absl::string_view token, DType dtype) {
  return absl::InvalidArgumentError(
      absl::StrCat(Printable(token, 32), " does not fit ", Name(dtype)));
}

template <typename T>
absl::Status Put(T value, std::byte* out) {
  std::memcpy(out, &value, sizeof(value));
  return absl::OkStatus();
}

template <typename T>
absl::Status ParseInteger(absl::string_view token, DType dtype, std::byte* out) {
  if (!IsInteger(token)) return IsNo(token, dtype);
  T value{};
  const auto result = std::from_chars(token.data(), token.data() + token.size(), value);
  if (result.ec != std::errc() || result.ptr != token.data() + token.size()) {
    return DoesNotFit(token, dtype);
  }
  return Put(value, out);
}

template <typename T>
absl::Status ParseFloat(absl::string_view token, DType dtype, T& value) {
  if (!IsNumber(token)) {
    const std::optional<T> special = NotFinite<T>(token);
    if (!special) return IsNo(token, dtype);
    value = *special;
    return absl::OkStatus();
  }
  const char* const end = token.data() + token.size();
  if (std::from_chars(token.data(), end, value).ec == std::errc()) return absl::OkStatus();
  // Beyond the range: Abseil says whether it is too large (the largest value) or too small (0 or
  // the nearest to it).
  absl::from_chars(token.data(), end, value);
  return std::abs(value) > 1 ? DoesNotFit(token, dtype) : absl::OkStatus();
}

template <typename T>
absl::Status PutFloat(absl::string_view token, DType dtype, std::byte* out) {
  T value = 0;
  absl::Status status = ParseFloat(token, dtype, value);
  return status.ok() ? Put(value, out) : status;
}

template <uint16_t (*kNarrow)(float), float (*kWiden)(uint16_t)>
absl::Status PutNarrow(absl::string_view token, DType dtype, std::byte* out) {
  float value = 0;
  absl::Status status = ParseFloat(token, dtype, value);
  if (!status.ok()) return status;
  const uint16_t bits = kNarrow(value);
  if (std::isinf(kWiden(bits)) && !std::isinf(value)) return DoesNotFit(token, dtype);
  return Put(bits, out);
}

absl::Status ParseBool(absl::string_view token, std::byte* out) {
  if (token != "true" && token != "false") return IsNo(token, DType::kBool);
  return Put(static_cast<uint8_t>(token == "true"), out);
}

}  // namespace

absl::Status ParseElement(absl::string_view token, DType dtype, std::byte* out) {
  switch (dtype) {
    case DType::kBool:
      return ParseBool(token, out);
    case DType::kInt8:
      return ParseInteger<int8_t>(token, dtype, out);
    case DType::kInt16:
      return ParseInteger<int16_t>(token, dtype, out);
    case DType::kInt32:
      return ParseInteger<int32_t>(token, dtype, out);
    case DType::kInt64:
      return ParseInteger<int64_t>(token, dtype, out);
    case DType::kUint8:
      return ParseInteger<uint8_t>(token, dtype, out);
    case DType::kUint16:
      return ParseInteger<uint16_t>(token, dtype, out);
    case DType::kUint32:
      return ParseInteger<uint32_t>(token, dtype, out);
    case DType::kUint64:
      return ParseInteger<uint64_t>(token, dtype, out);
    case DType::kFloat16:
      return PutNarrow<FloatToHalf, HalfToFloat>(token, dtype, out);
    case DType::kBfloat16:
      return PutNarrow<FloatToBfloat, BfloatToFloat>(token, dtype, out);
    case DType::kFloat32:
      return PutFloat<float>(token, dtype, out);
    case DType::kFloat64:
      return PutFloat<double>(token, dtype, out);
    case DType::kUnspecified:
      break;
  }
  return absl::InternalError("a value without a type");
}

DType DetectType(absl::string_view token) {
  if (token == "true" || token == "false") return DType::kBool;
  if (!IsInteger(token)) {
    return IsNumber(token) || NotFinite<float>(token) ? DType::kFloat32 : DType::kUnspecified;
  }
  std::byte scratch[8];
  if (ParseElement(token, DType::kInt64, scratch).ok()) return DType::kInt64;
  return ParseElement(token, DType::kUint64, scratch).ok() ? DType::kUint64 : DType::kFloat32;
}

}  // namespace millrace
