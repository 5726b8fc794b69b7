#include "server/transports/http/json_number.h"

#include <absl/strings/charconv.h>
#include <absl/strings/str_cat.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <concepts>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "proto/wire/tensor.h"
#include "proto/wire/text.h"
#include "server/transports/http/json_text.h"

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

// ---- the fast way, for numbers that are not too long, as nearly all are
//
// Inlined by force: at ten nanoseconds a number a call is felt, and compilers see too many callers.
#define MILLRACE_INLINE [[gnu::always_inline]] inline

uint64_t LoadEight(const char* at) {
  uint64_t eight;
  std::memcpy(&eight, at, sizeof(eight));
  return eight;
}

// The value of eight digits, the first of which is in the lowest byte: neighbours are added up to
// pairs, pairs to fours, fours to the eight.
uint64_t ValueOfEight(uint64_t eight) {
  eight = (eight & 0x0f0f0f0f0f0f0f0f) * (1 + (10 << 8)) >> 8;
  eight = (eight & 0x00ff00ff00ff00ff) * (1 + (100 << 16)) >> 16;
  return (eight & 0x0000ffff0000ffff) * (1 + (uint64_t{10000} << 32)) >> 32;
}

// The highest bit of each byte that is no digit; right up to the first such byte.
uint64_t NoDigits(uint64_t eight) {
  return ((eight + 0x4646464646464646) | (eight - 0x3030303030303030)) & 0x8080808080808080;
}

// Appends the digits at `at` to `value`, which wraps around beyond 19 of them; returns their end.
MILLRACE_INLINE const char* ReadDigits(const char* at, uint64_t& value) {
  static constexpr uint64_t kPowers[] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000};
  while (true) {
    const uint64_t eight = LoadEight(at);
    const uint64_t others = NoDigits(eight);
    if (others != 0) {
      const int count = std::countr_zero(others) / 8;
      value = value * kPowers[count] + ValueOfEight(eight << (56 - 8 * count) << 8);
      return at + count;
    }
    value = value * 100'000'000 + ValueOfEight(eight);
    at += 8;
  }
}

// (-1)^negative * digits * 10^exponent
struct Decimal {
  bool negative;
  uint64_t digits;
  int64_t exponent;
};

// Digits that 64 bits hold, whatever they are.
constexpr ptrdiff_t kMostDigits = 19;

// Null for what is no number, or one of more digits.
MILLRACE_INLINE const char* ReadInteger(const char* at, Decimal& number) {
  number = {.negative = *at == '-', .digits = 0, .exponent = 0};
  const char* const first = at + number.negative;
  const char* const end = ReadDigits(first, number.digits);
  const bool fit =
      end != first && end - first <= kMostDigits && (*first != '0' || end == first + 1);
  return fit ? end : nullptr;
}

const char* ReadExponent(const char* at, Decimal& number) {
  const bool negative = *at == '-';
  const char* const first = at + (negative || *at == '+');
  uint64_t exponent = 0;
  const char* const end = ReadDigits(first, exponent);
  if (end == first || end - first > 4) return nullptr;
  number.exponent += negative ? -static_cast<int64_t>(exponent) : static_cast<int64_t>(exponent);
  return end;
}

MILLRACE_INLINE const char* ReadDecimal(const char* at, Decimal& number) {
  const char* end = ReadInteger(at, number);
  if (end == nullptr) return nullptr;
  if (*end == '.') {
    const ptrdiff_t before = number.digits == 0 ? 0 : end - at - number.negative;
    const char* const first = end + 1;
    end = ReadDigits(first, number.digits);
    if (end == first || before + (end - first) > kMostDigits) return nullptr;
    number.exponent = first - end;
  }
  return (*end | 0x20) == 'e' ? ReadExponent(end + 1, number) : end;
}

// digits * 10^exponent with at most one rounding each of `digits`, to a double, and of the result;
// nothing for exponents whose powers of ten are no doubles.
MILLRACE_INLINE std::optional<double> Scale(const Decimal& number) {
  static constexpr double kPowers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                       1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                       1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  constexpr int64_t kMost = std::size(kPowers) - 1;
  if (number.exponent < -kMost || number.exponent > kMost || number.digits > INT64_MAX) {
    return std::nullopt;
  }
  const auto digits = static_cast<double>(static_cast<int64_t>(number.digits));
  return number.exponent < 0 ? digits / kPowers[-number.exponent]
                             : digits * kPowers[number.exponent];
}

// Without a branch: signs are as good as random.
double WithSign(double value, bool negative) {
  return std::bit_cast<double>(std::bit_cast<uint64_t>(value) | uint64_t{negative} << 63);
}

// Exact where `digits` is: the result was then rounded once.
MILLRACE_INLINE const char* ReadFast(const char* at, double& value) {
  Decimal number;
  const char* const end = ReadDecimal(at, number);
  if (end == nullptr || number.digits > uint64_t{1} << 53) return nullptr;
  const std::optional<double> scaled = Scale(number);
  if (!scaled) return nullptr;
  value = WithSign(*scaled, number.negative);
  return end;
}

// By way of a double, which is within two of its last places of the number.  Rounding it again is
// right unless it lies so near to the middle between two floats.
MILLRACE_INLINE const char* ReadFast(const char* at, float& value) {
  constexpr uint64_t kBelow = (1 << 29) - 1;  // what a float has not of a double's bits
  constexpr uint64_t kMiddle = 1 << 28;
  Decimal number;
  const char* const end = ReadDecimal(at, number);
  if (end == nullptr) return nullptr;
  const std::optional<double> scaled = Scale(number);
  if (!scaled || *scaled > std::numeric_limits<float>::max()) return nullptr;
  const uint64_t below = std::bit_cast<uint64_t>(*scaled) & kBelow;
  if (below - (kMiddle - 2) <= 4) return nullptr;
  value = static_cast<float>(WithSign(*scaled, number.negative));
  return end;
}

template <std::integral T>
MILLRACE_INLINE const char* ReadFast(const char* at, T& value) {
  Decimal number;
  const char* const end = ReadInteger(at, number);
  if (end == nullptr || number.digits > INT64_MAX) return nullptr;
  if (number.negative && std::unsigned_integral<T>) return nullptr;
  const auto magnitude = static_cast<int64_t>(number.digits);
  const int64_t whole = number.negative ? -magnitude : magnitude;
  if (!std::in_range<T>(whole)) return nullptr;
  value = static_cast<T>(whole);
  return end;
}

// A way to read an element: Value, and Read() as ReadFast().
template <typename T>
struct Number {
  using Value = T;
  MILLRACE_INLINE static const char* Read(const char* at, T& value) { return ReadFast(at, value); }
};

template <uint16_t (*kNarrow)(float), float (*kWiden)(uint16_t)>
struct Narrow {
  using Value = uint16_t;
  MILLRACE_INLINE static const char* Read(const char* at, uint16_t& bits) {
    float value = 0;
    const char* const end = ReadFast(at, value);
    if (end == nullptr) return nullptr;
    bits = kNarrow(value);
    return std::isinf(kWiden(bits)) ? nullptr : end;
  }
};

template <typename Way>
const char* ReadRun(const char* at, uint64_t most, std::byte* out, uint64_t& count) {
  const char* end = at;
  uint64_t done = 0;
  while (done < most) {
    typename Way::Value value;
    const char* const next = Way::Read(at, value);
    if (next == nullptr || (*next != ',' && !EndsJsonToken(*next))) break;
    std::memcpy(out + done++ * sizeof(value), &value, sizeof(value));
    end = next;
    if (*end != ',') break;
    at = end + 1;
    at += *at == ' ';
  }
  count = done;
  return end;
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

const char* ReadElements(const char* at, DType dtype, uint64_t most, std::byte* out,
                         uint64_t& count) {
  count = 0;
  switch (dtype) {
    case DType::kInt8:
      return ReadRun<Number<int8_t>>(at, most, out, count);
    case DType::kInt16:
      return ReadRun<Number<int16_t>>(at, most, out, count);
    case DType::kInt32:
      return ReadRun<Number<int32_t>>(at, most, out, count);
    case DType::kInt64:
      return ReadRun<Number<int64_t>>(at, most, out, count);
    case DType::kUint8:
      return ReadRun<Number<uint8_t>>(at, most, out, count);
    case DType::kUint16:
      return ReadRun<Number<uint16_t>>(at, most, out, count);
    case DType::kUint32:
      return ReadRun<Number<uint32_t>>(at, most, out, count);
    case DType::kUint64:
      return ReadRun<Number<uint64_t>>(at, most, out, count);
    case DType::kFloat16:
      return ReadRun<Narrow<FloatToHalf, HalfToFloat>>(at, most, out, count);
    case DType::kBfloat16:
      return ReadRun<Narrow<FloatToBfloat, BfloatToFloat>>(at, most, out, count);
    case DType::kFloat32:
      return ReadRun<Number<float>>(at, most, out, count);
    case DType::kFloat64:
      return ReadRun<Number<double>>(at, most, out, count);
    case DType::kBool:
    case DType::kUnspecified:
      break;
  }
  return at;
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
