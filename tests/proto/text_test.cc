#include "proto/wire/text.h"

#include <absl/strings/numbers.h>
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <sstream>
#include <vector>

#include "tests/proto/numpy_oracle.h"

namespace millrace {
namespace {

template <typename T>
std::string Element(DType dtype, T value) {
  std::string out;
  AppendElement(dtype, reinterpret_cast<const std::byte*>(&value), 0, out);
  return out;
}

template <typename T>
std::string Json(DType dtype, Shape shape, const std::vector<T>& values) {
  std::string out;
  AppendJson({{"", dtype, std::move(shape)}, std::as_bytes(std::span(values))}, out);
  return out;
}

// The nearest of the 65536 values of a 16-bit type, by comparing with its neighbours, in double.
uint16_t Nearest(float value, float (*to_float)(uint16_t), uint16_t infinity) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double magnitude = std::fabs(double{value});
  uint16_t below = 0;
  for (uint32_t step = 0x4000; step > 0; step >>= 1) {
    const uint16_t next = below + step;
    if (next < infinity && to_float(next) <= magnitude) below = next;
  }
  const double low = to_float(below);
  // Infinity stands for the value that would follow the largest one.
  const double high = below + 1 == infinity ? 2 * low - to_float(below - 1) : to_float(below + 1);
  const double middle = (low + high) / 2;
  const bool up = magnitude > middle || (magnitude == middle && below % 2 == 1);
  return sign | (below + (up ? 1 : 0));
}

// Floats all over the range, and at and beside the middles between neighbours of the 16-bit types.
std::vector<float> Floats() {
  std::vector<float> floats;
  for (uint32_t high = 0; high < 0x7f80; ++high) {
    for (const uint32_t low :
         {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu, 0x1000u, 0x3000u, 0x3001u}) {
      floats.push_back(std::bit_cast<float>(high << 16 | low));
      floats.push_back(-floats.back());
    }
  }
  return floats;
}

TEST(HalfTest, EveryValueConvertsAsNumpyDoes) {
  REQUIRE_NUMPY();
  std::istringstream lines(RunNumpy("halves"));
  int count = 0;
  uint32_t bits = 0, float_bits = 0;
  for (std::string text; lines >> bits >> float_bits >> text; ++count) {
    ASSERT_EQ(std::bit_cast<uint32_t>(HalfToFloat(bits)), float_bits) << bits;
    ASSERT_EQ(FloatToHalf(std::bit_cast<float>(float_bits)), bits);
    float expected = 0, shortest = 0;
    ASSERT_TRUE(absl::SimpleAtof(text, &expected)) << text;
    ASSERT_TRUE(absl::SimpleAtof(Element(DType::kFloat16, static_cast<uint16_t>(bits)), &shortest));
    ASSERT_EQ(shortest, expected) << bits;
  }
  EXPECT_EQ(count, 65536 - 2 * 1023);
}

TEST(HalfTest, RoundsToTheNearest) {
  for (const float value : Floats()) {
    ASSERT_EQ(FloatToHalf(value), Nearest(value, HalfToFloat, 0x7c00)) << value;
  }
}

TEST(BfloatTest, RoundsToTheNearest) {
  for (const float value : Floats()) {
    ASSERT_EQ(FloatToBfloat(value), Nearest(value, BfloatToFloat, 0x7f80)) << value;
  }
}

TEST(BfloatTest, EveryValueReadsBackFromItsText) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (std::isnan(BfloatToFloat(bits))) continue;
    const std::string text = Element(DType::kBfloat16, static_cast<uint16_t>(bits));
    float value = 0;
    ASSERT_TRUE(absl::SimpleAtof(text, &value)) << text;
    ASSERT_EQ(FloatToBfloat(value), bits) << text;
  }
}

TEST(BfloatTest, TextIsShort) {
  EXPECT_EQ(Element(DType::kBfloat16, FloatToBfloat(0.1f)), "0.1");
  EXPECT_EQ(Element(DType::kBfloat16, FloatToBfloat(3e38f)), "3e+38");
}

TEST(ShortFloatTest, NanStaysNan) {
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7c01)));
  EXPECT_TRUE(std::isnan(BfloatToFloat(0xffc0)));
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(std::bit_cast<float>(0x7f800001)))));
  EXPECT_TRUE(std::isnan(BfloatToFloat(FloatToBfloat(std::bit_cast<float>(0x7f800001)))));
}

TEST(TextTest, WritesEveryType) {
  EXPECT_EQ(Element(DType::kBool, uint8_t{0}), "false");
  EXPECT_EQ(Element(DType::kBool, uint8_t{2}), "true");
  EXPECT_EQ(Element(DType::kInt8, int8_t{-128}), "-128");
  EXPECT_EQ(Element(DType::kUint8, uint8_t{200}), "200");
  EXPECT_EQ(Element(DType::kInt16, int16_t{-300}), "-300");
  EXPECT_EQ(Element(DType::kUint16, uint16_t{65535}), "65535");
  EXPECT_EQ(Element(DType::kInt32, int32_t{-70000}), "-70000");
  EXPECT_EQ(Element(DType::kUint32, uint32_t{4'000'000'000}), "4000000000");
  EXPECT_EQ(Element(DType::kInt64, INT64_MIN), "-9223372036854775808");
  EXPECT_EQ(Element(DType::kUint64, UINT64_MAX), "18446744073709551615");
  EXPECT_EQ(Element(DType::kFloat32, 0.1f), "0.1");
  EXPECT_EQ(Element(DType::kFloat64, 0.1), "0.1");
  EXPECT_EQ(Element(DType::kFloat16, FloatToHalf(0.1f)), "0.1");
}

TEST(TextTest, SpellsWhatJsonHasNoNumberFor) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(Element(DType::kFloat32, kInfinity), "Infinity");
  EXPECT_EQ(Element(DType::kFloat32, -kInfinity), "-Infinity");
  EXPECT_EQ(Element(DType::kFloat64, -std::nan("")), "NaN");
  EXPECT_EQ(Element(DType::kFloat16, uint16_t{0xfc00}), "-Infinity");
  EXPECT_EQ(Element(DType::kBfloat16, uint16_t{0x7fc0}), "NaN");
}

TEST(TextTest, ReadsElementsThatAreNotAligned) {
  const char bytes[] = "\0\1\2\0\0\0";
  std::string out;
  AppendElement(DType::kInt32, reinterpret_cast<const std::byte*>(bytes + 1), 0, out);
  EXPECT_EQ(out, "513");
}

TEST(JsonTest, NestsDimensions) {
  EXPECT_EQ(Json<int32_t>(DType::kInt32, {}, {7}), "7");
  EXPECT_EQ(Json<int32_t>(DType::kInt32, {3}, {1, 2, 3}), "[1,2,3]");
  EXPECT_EQ(Json<int32_t>(DType::kInt32, {2, 2, 1}, {1, 2, 3, 4}), "[[[1],[2]],[[3],[4]]]");
}

TEST(JsonTest, AnEmptyTensorIsShortWhateverItsShape) {
  EXPECT_EQ(Json<int32_t>(DType::kInt32, {int64_t{1} << 40, 0}, {}), "[]");
}

}  // namespace
}  // namespace millrace
