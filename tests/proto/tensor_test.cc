#include "proto/wire/tensor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace millrace {
namespace {

constexpr int64_t kHuge = INT64_MAX;

TEST(ShapeTest, ReadsAndWrites) {
  EXPECT_EQ(*ParseShape("3000,2500"), Shape({3000, 2500}));
  EXPECT_EQ(*ParseShape(""), Shape());
  EXPECT_EQ(ToString(*ParseShape("0,7")), "[0,7]");
  EXPECT_EQ(ToString(Shape()), "[]");
}

TEST(ShapeTest, RefusesWhatIsNoShape) {
  for (const char* text :
       {",", "3,", ",3", "-1", "+1", " 3", "3 ,4", "3.0", "a", "9223372036854775808"}) {
    EXPECT_EQ(ParseShape(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ShapeTest, RefusesTooManyDimensions) {
  std::string text = "1";
  for (size_t i = 1; i < kMaxRank; ++i) text += ",1";
  EXPECT_TRUE(ParseShape(text).ok());
  EXPECT_EQ(ParseShape(text + ",1").status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(ElementCountTest, MultipliesDimensions) {
  EXPECT_EQ(*ElementCount({}), 1u);
  EXPECT_EQ(*ElementCount({3000, 2500}), 7'500'000u);
  EXPECT_EQ(*ElementCount({5, 0, 7}), 0u);
  EXPECT_EQ(*ElementCount({kHuge}), uint64_t{INT64_MAX});
}

TEST(ElementCountTest, RefusesNegativeAndOverflow) {
  EXPECT_FALSE(ElementCount({-1}).ok());
  EXPECT_FALSE(ElementCount({0, -1}).ok());
  EXPECT_FALSE(ElementCount({int64_t{1} << 32, int64_t{1} << 31}).ok());
  EXPECT_FALSE(ElementCount({kHuge, kHuge, kHuge}).ok());
  // The product comes back to a small number modulo 2^64.
  EXPECT_FALSE(ElementCount({int64_t{1} << 62, 4, 3}).ok());
  EXPECT_FALSE(ElementCount(Shape(kMaxRank + 1, 1)).ok());
}

TEST(ElementCountTest, AnEmptyTensorIsEmptyWhateverItsOtherDimensions) {
  EXPECT_EQ(*ElementCount({kHuge, kHuge, 0}), 0u);
}

TEST(ByteSizeTest, CountsBytes) {
  EXPECT_EQ(*ByteSize(DType::kFloat32, {3000, 2500}), 30'000'000u);
  EXPECT_EQ(*ByteSize(DType::kBool, {}), 1u);
}

TEST(ByteSizeTest, RefusesOverflowAndNoType) {
  EXPECT_TRUE(ByteSize(DType::kUint8, {kHuge}).ok());
  EXPECT_FALSE(ByteSize(DType::kInt16, {kHuge}).ok());
  EXPECT_FALSE(ByteSize(DType::kFloat64, {int64_t{1} << 61}).ok());
  EXPECT_FALSE(ByteSize(DType::kUnspecified, {1}).ok());
}

TEST(TensorMetaTest, ToStringNamesTypeAndShape) {
  EXPECT_EQ(ToString(TensorMeta{"image", DType::kFloat32, {3000, 2500}}),
            "image: float32[3000,2500]");
}

TEST(PrintableTest, EscapesAndCuts) {
  EXPECT_EQ(Printable("a\nb\x80"), "a\\nb\\x80");
  EXPECT_EQ(Printable("abcdef", 3), "abc...");
}

}  // namespace
}  // namespace millrace
