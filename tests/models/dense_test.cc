#include "server/models/dense.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>

#include "tests/models/model_harness.h"

namespace millrace {
namespace {

constexpr int64_t kColumns = 2500;
constexpr int64_t kOutputs = 48;

std::vector<float> MakeImage(int64_t rows) {
  std::vector<float> image(rows * kColumns);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<float>(i * 37 % 1009) / 1009;
  return image;
}

double Expected(const std::vector<float>& image, int64_t row, int64_t output) {
  double sum = 0;
  for (int64_t i = 0; i < kColumns; ++i) {
    sum +=
        image[row * kColumns + i] * (static_cast<double>((7 * i + 13 * output) % 31) - 15) / 1024;
  }
  return sum;
}

TEST(DenseTest, MultipliesByTheWeightsThatItsHeaderSays) {
  const auto model = MakeDense();
  ModelHarness harness;
  for (const int64_t rows : {0, 1, 3, 4, 9}) {
    const std::vector<float> image = MakeImage(rows);
    const auto outputs =
        harness.Run(*model, {Over({"image", DType::kFloat32, {rows, kColumns}}, image)});
    ASSERT_TRUE(outputs.ok()) << outputs.status();
    ASSERT_EQ((*outputs)[0].meta, (TensorMeta{"y", DType::kFloat32, {rows, kOutputs}}));
    for (int64_t i = 0; i < rows * kOutputs; ++i) {
      float y;
      std::memcpy(&y, (*outputs)[0].bytes.data() + i * sizeof(y), sizeof(y));
      EXPECT_NEAR(y, Expected(image, i / kOutputs, i % kOutputs), 1e-4);
    }
  }
}

TEST(DenseTest, WaitsForAllRowsWhenAskedTo) {
  const auto model = MakeDense();
  const TensorMeta image = {"image", DType::kFloat32, {3000, kColumns}};
  EXPECT_NE(model->StartEarly(image, {}), nullptr);
  EXPECT_NE(model->StartEarly(image, {{"overlap", "true"}}), nullptr);
  EXPECT_EQ(model->StartEarly(image, {{"overlap", "false"}}), nullptr);
}

}  // namespace
}  // namespace millrace
