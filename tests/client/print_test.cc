#include "client/cli/print.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace millrace {
namespace {

using ::testing::HasSubstr;

Prediction Int32s(std::string name, int64_t count) {
  OutputTensor output{
      {std::move(name), DType::kInt32, {count}}, nullptr, static_cast<size_t>(count) * 4};
  output.data = std::make_unique<std::byte[]>(output.size);
  for (int32_t i = 0; i < count; ++i) std::memcpy(output.data.get() + i * 4, &i, 4);
  Prediction prediction;
  prediction.outputs.push_back(std::move(output));
  return prediction;
}

TEST(FormatPredictionTest, SmallOutputsArePrinted) {
  EXPECT_EQ(FormatPrediction(Int32s("out", 3)), "out: int32[3] [0,1,2]\n");
  EXPECT_EQ(FormatPrediction(Int32s("", 0)), "output: int32[0] []\n");
}

TEST(FormatPredictionTest, LargeOutputsAreSummedUp) {
  EXPECT_THAT(FormatPrediction(Int32s("out", 2000)),
              HasSubstr("int32[2000] 8.0 kB, starting with 0, 1, 2, 3, 4, 5, 6, 7, ...; --out"));
}

TEST(FormatPredictionTest, NamesCannotDriveTheTerminal) {
  EXPECT_THAT(FormatPrediction(Int32s("\x1b[2J", 1)), HasSubstr("\\x1b[2J"));
}

TEST(FormatTimesTest, TellsMedianAndRate) {
  const absl::Duration times[] = {absl::Milliseconds(30), absl::Milliseconds(10),
                                  absl::Milliseconds(20)};
  EXPECT_EQ(FormatTimes(times, 30'000'000),
            "3 requests of 30.0 MB: median 20.00 ms (1.50 GB/s), min 10.00 ms, max 30.00 ms\n");
  EXPECT_THAT(FormatTimes(absl::MakeSpan(times).first(2), 1000), HasSubstr("median 20.00 ms"));
}

TEST(FormatModelTest, ListsInputsAndOutputs) {
  ModelInfo model{"m",
                  "1",
                  {{{"image", DType::kFloat32, {kAnySize, 3}}, true}},
                  {{{"std", DType::kFloat32, {}}, false}},
                  false,
                  true};
  EXPECT_EQ(FormatModel(model),
            "m 1\n  in   image: float32[any,3], or one element for all\n  out  std: float32[]\n");
  EXPECT_EQ(FormatModel({.name = "any", .version = "2", .any_tensors = true}),
            "any 2 (not ready)\n  in   any tensors\n");
}

TEST(FormatModelTest, SaysWhatMayBeAny) {
  const ModelInfo model{.name = "m",
                        .version = "1",
                        .inputs = {{.meta = {.name = "x"}, .any_shape = true}},
                        .ready = true};
  EXPECT_EQ(FormatModel(model), "m 1\n  in   x: any[...]\n");
}

}  // namespace
}  // namespace millrace
