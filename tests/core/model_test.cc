#include "server/core/model.h"

#include <gtest/gtest.h>

#include <string>

namespace millrace {
namespace {

ModelSpec TwoInputs() {
  return {.name = "m",
          .inputs = {{.name = "image", .dtype = DType::kFloat32, .shape = {kAnySize, 3}},
                     {.name = "mask", .dtype = DType::kBool, .shape = {2}}}};
}

ModelSpec Image() {
  return {.name = "m",
          .inputs = {{.name = "image",
                      .dtype = DType::kFloat32,
                      .shape = {kAnySize, kAnySize},
                      .scalar_broadcasts = true,
                      .bare_shape = {kAnySize, 3}}}};
}

std::string Check(const ModelSpec& spec, std::vector<TensorMeta> tensors) {
  return std::string(CheckInputs(spec, tensors).message());
}

const TensorMeta kImage{"image", DType::kFloat32, {5, 3}};
const TensorMeta kMask{"mask", DType::kBool, {2}};

TEST(CheckInputsTest, TakesTheInputsInAnyOrder) {
  EXPECT_EQ(Check(TwoInputs(), {kImage, kMask}), "");
  EXPECT_EQ(Check(TwoInputs(), {kMask, kImage}), "");
}

TEST(CheckInputsTest, SaysWhatIsMissing) {
  EXPECT_EQ(Check(TwoInputs(), {kImage}),
            "model \"m\" takes 2 tensors (image: float32[-1,3], mask: bool[2]), but 1 were sent");
}

TEST(CheckInputsTest, SaysWhatItHasNot) {
  EXPECT_EQ(Check(TwoInputs(), {kImage, {"musk", DType::kBool, {2}}}),
            "model \"m\" has no input \"musk\"; it takes image: float32[-1,3], mask: bool[2]");
}

TEST(CheckInputsTest, SaysWhichTypeIsWrong) {
  EXPECT_EQ(Check(TwoInputs(), {kImage, {"mask", DType::kInt8, {2}}}),
            "input \"mask\" of model \"m\" is bool, but int8 was sent");
}

TEST(CheckInputsTest, SaysWhichShapeIsWrong) {
  EXPECT_EQ(
      Check(TwoInputs(), {{"image", DType::kFloat32, {5, 4}}, kMask}),
      "input \"image\" of model \"m\" has the shape [-1,3] (-1 is any size), but [5,4] was sent");
  EXPECT_NE(Check(TwoInputs(), {{"image", DType::kFloat32, {5, 3, 1}}, kMask}), "");
}

TEST(CheckInputsTest, RefusesATensorSentTwice) {
  EXPECT_EQ(Check(TwoInputs(), {kImage, kImage}), "tensor \"image\" is sent twice");
}

TEST(CheckInputsTest, ASingleTensorNeedsNoName) {
  std::vector<TensorMeta> tensors = {{"", DType::kFloat32, {2, 2}}};
  ASSERT_TRUE(CheckInputs(Image(), tensors).ok());
  EXPECT_EQ(tensors[0].name, "image");
}

TEST(CheckInputsTest, OneElementMayStandForAll) {
  EXPECT_EQ(Check(Image(), {{"image", DType::kFloat32, {}}}), "");
  EXPECT_EQ(Check(Image(), {{"image", DType::kFloat32, {1}}}), "");
  EXPECT_NE(Check(Image(), {{"image", DType::kFloat32, {2}}}), "");
}

TEST(CheckInputsTest, EscapesWhatTheClientSent) {
  EXPECT_EQ(Check(TwoInputs(), {kImage, {"a\n\x1b", DType::kBool, {2}}}),
            "model \"m\" has no input \"a\\n\\x1b\"; it takes image: float32[-1,3], mask: bool[2]");
}

ModelSpec Anything() { return {.name = "m", .inputs = {{.name = "x", .any_shape = true}}}; }

TEST(CheckInputsTest, TakesAnyTypeAndShapeWhereTheModelDoes) {
  EXPECT_EQ(Check(Anything(), {{"x", DType::kInt8, {}}}), "");
  EXPECT_EQ(Check(Anything(), {{"", DType::kFloat64, {1, 2, 3}}}), "");
  EXPECT_EQ(Check(Anything(), {{"y", DType::kInt8, {}}}),
            "model \"m\" has no input \"y\"; it takes x: any[...]");
}

TEST(CheckInputsTest, AnyTypeMayHaveAShapeAndAnyShapeAType) {
  const ModelSpec spec{.name = "m",
                       .inputs = {{.name = "a", .shape = {2}},
                                  {.name = "b", .dtype = DType::kBool, .any_shape = true}}};
  EXPECT_EQ(Check(spec, {{"a", DType::kInt8, {2}}, {"b", DType::kBool, {7, 7}}}), "");
  EXPECT_NE(Check(spec, {{"a", DType::kInt8, {3}}, {"b", DType::kBool, {7, 7}}}), "");
  EXPECT_EQ(Check(spec, {}),
            "model \"m\" takes 2 tensors (a: any[2], b: bool[...]), but 0 were sent");
}

TEST(DescribeBareBytesTest, FindsTheFreeDimension) {
  EXPECT_EQ(DescribeBareBytes(Image(), 24).value(), (TensorMeta{"image", DType::kFloat32, {2, 3}}));
}

TEST(DescribeBareBytesTest, OneElementIsAScalarWhereThatBroadcasts) {
  EXPECT_EQ(DescribeBareBytes(Image(), 4).value(), (TensorMeta{"image", DType::kFloat32, {}}));
}

TEST(DescribeBareBytesTest, AreFloatsOfOneDimensionWhereAnythingGoes) {
  EXPECT_EQ(*DescribeBareBytes(Anything(), 12), (TensorMeta{"x", DType::kFloat32, {3}}));
  EXPECT_EQ(DescribeBareBytes(Anything(), 13).status().message(),
            "13 bytes are no whole x: float32[-1] (-1 is any size); say what they are, as in "
            "?shape=3000,2500&dtype=float32");
}

TEST(DescribeBareBytesTest, SaysWhatDoesNotFit) {
  EXPECT_EQ(DescribeBareBytes(Image(), 25).status().message(),
            "25 bytes are no whole image: float32[-1,3] (-1 is any size); say what they are, as in "
            "?shape=3000,2500&dtype=float32");
  EXPECT_FALSE(DescribeBareBytes(TwoInputs(), 24).ok());
}

TEST(DescribeBareBytesTest, BytesStayBytesWhereAnythingGoes) {
  EXPECT_EQ(DescribeBareBytes({.name = "any", .any_tensors = true}, 7).value(),
            (TensorMeta{"", DType::kUint8, {7}}));
}

TEST(OutputsTest, MemoryIsAlignedLargeOrSmall) {
  SlabPool pool({.limit = 1 << 20});
  Outputs outputs(pool);
  for (const int64_t size : {0, 1, 100, 65'537}) {
    const auto space = outputs.Add({"y", DType::kUint8, {size}});
    ASSERT_TRUE(space.ok());
    EXPECT_EQ(space->size(), static_cast<size_t>(size));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(space->data()) % 64, 0u);
  }
}

TEST(OutputsTest, LargeOutputsComeOutOfTheBudget) {
  SlabPool pool({.limit = 1 << 20});
  Outputs outputs(pool);
  EXPECT_EQ(outputs.Add({"y", DType::kUint8, {2 << 20}}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace millrace
