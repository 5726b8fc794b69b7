#include "proto/wire/text.h"

#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace millrace {
namespace {

static_assert(std::endian::native == std::endian::little, "tensors are little-endian");

// Appends the element at `bytes`.
using Appender = void (*)(const std::byte* bytes, std::string& out);

template <typename T>
T Load(const std::byte* bytes) {
  T value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

template <typename T>
void AppendNumber(T value, std::string& out) {
  std::array<char, 32> text;
  const auto result = std::to_chars(text.data(), text.data() + text.size(), value);
  out.append(text.data(), result.ptr);
}

template <typename T>
void AppendFloat(T value, std::string& out) {
  if (std::isnan(value)) {
    out += "NaN";
  } else if (std::isinf(value)) {
    out += value < 0 ? "-Infinity" : "Infinity";
  } else {
    AppendNumber(value, out);
  }
}

// `value` with so many significant decimal digits.
float RoundToDigits(float value, int digits) {
  std::array<char, 32> text;
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value,
                                 std::chars_format::scientific, digits - 1);
  float rounded = 0;
  std::from_chars(text.data(), end.ptr, rounded);
  return rounded;
}

template <typename T>
void AppendInteger(const std::byte* bytes, std::string& out) {
  AppendNumber(Load<T>(bytes), out);
}

template <typename T>
void AppendFloating(const std::byte* bytes, std::string& out) {
  AppendFloat(Load<T>(bytes), out);
}

// The float of the fewest decimal digits from which FromFloat makes `bits` again; five always do.
template <uint16_t (*FromFloat)(float)>
float Shortest(float value, uint16_t bits) {
  // Next to a power of two a tie reads back only from the side away from zero.
  const float beyond = std::nextafter(value, 2 * value);
  for (int digits = 1; digits < 5; ++digits) {
    for (const float start : {value, beyond}) {
      const float text = RoundToDigits(start, digits);
      if (FromFloat(text) == bits) return text;
    }
  }
  return RoundToDigits(value, 5);
}

// For the 16-bit types.
template <float (*ToFloat)(uint16_t), uint16_t (*FromFloat)(float)>
void AppendShortFloat(const std::byte* bytes, std::string& out) {
  const uint16_t bits = Load<uint16_t>(bytes);
  const float value = ToFloat(bits);
  AppendFloat(std::isfinite(value) ? Shortest<FromFloat>(value, bits) : value, out);
}

void AppendBool(const std::byte* bytes, std::string& out) {
  out += *bytes != std::byte{0} ? "true" : "false";
}

void AppendNull(const std::byte*, std::string& out) { out += "null"; }

Appender AppenderOf(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return AppendBool;
    case DType::kInt8:
      return AppendInteger<int8_t>;
    case DType::kInt16:
      return AppendInteger<int16_t>;
    case DType::kInt32:
      return AppendInteger<int32_t>;
    case DType::kInt64:
      return AppendInteger<int64_t>;
    case DType::kUint8:
      return AppendInteger<uint8_t>;
    case DType::kUint16:
      return AppendInteger<uint16_t>;
    case DType::kUint32:
      return AppendInteger<uint32_t>;
    case DType::kUint64:
      return AppendInteger<uint64_t>;
    case DType::kFloat16:
      return AppendShortFloat<HalfToFloat, FloatToHalf>;
    case DType::kBfloat16:
      return AppendShortFloat<BfloatToFloat, FloatToBfloat>;
    case DType::kFloat32:
      return AppendFloating<float>;
    case DType::kFloat64:
      return AppendFloating<double>;
    case DType::kUnspecified:
      break;
  }
  return AppendNull;
}

// Appends the elements from `bytes` on that make up `shape`, and gives back where the next ones
// start.
const std::byte* AppendArray(Appender append, size_t element_size, absl::Span<const int64_t> shape,
                             const std::byte* bytes, std::string& out) {
  if (shape.empty()) {
    append(bytes, out);
    return bytes + element_size;
  }
  out += '[';
  for (int64_t i = 0; i < shape[0]; ++i) {
    if (i > 0) out += ',';
    bytes = AppendArray(append, element_size, shape.subspan(1), bytes, out);
  }
  out += ']';
  return bytes;
}

// Drops the low `count` bits, to the nearest value, ties to even.
uint32_t RoundToEven(uint32_t bits, int count) {
  const uint32_t below_half = (1u << (count - 1)) - 1;
  return (bits + below_half + (bits >> count & 1)) >> count;
}

constexpr uint32_t kFloatInfinity = 0x7f800000;

}  // namespace

float HalfToFloat(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t magnitude = (bits & 0x7fffu) << 13;
  if (magnitude >= 0x7c00u << 13) return std::bit_cast<float>(sign | kFloatInfinity | magnitude);
  // The exponents' biases differ by 112; multiplying is exact for subnormals too.
  const float value = std::bit_cast<float>(magnitude) * 0x1p112f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(value));
}

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > kFloatInfinity) return sign | 0x7e00 | (magnitude >> 13 & 0x3ff);
  if (magnitude >= std::bit_cast<uint32_t>(0x1p16f)) return sign | 0x7c00;
  if (magnitude < std::bit_cast<uint32_t>(0x1p-14f)) {
    // A subnormal: the last bit of 0.5f weighs as much as its last bit, so the addition rounds.
    const float sum = std::bit_cast<float>(magnitude) + 0.5f;
    return sign | (std::bit_cast<uint32_t>(sum) - std::bit_cast<uint32_t>(0.5f));
  }
  return sign | RoundToEven(magnitude - (112u << 23), 13);  // May carry up to infinity.
}

float BfloatToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t FloatToBfloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return bits >> 16 | 0x40;
  return RoundToEven(bits, 16);
}

void AppendElement(DType dtype, const std::byte* bytes, size_t index, std::string& out) {
  AppenderOf(dtype)(bytes + index * ElementSize(dtype), out);
}

void AppendJson(const TensorView& tensor, std::string& out) {
  if (tensor.bytes.empty()) {
    out += "[]";
    return;
  }
  const DType dtype = tensor.meta.dtype;
  AppendArray(AppenderOf(dtype), ElementSize(dtype), tensor.meta.shape, tensor.bytes.data(), out);
}

}  // namespace millrace
