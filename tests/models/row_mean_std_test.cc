#include "server/models/row_mean_std.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>

#include "tests/models/model_harness.h"
#include "tests/proto/numpy_oracle.h"

namespace millrace {
namespace {

class RowMeanStdTest : public testing::Test {
 protected:
  absl::StatusOr<float> Run(Shape shape, const std::vector<float>& values) {
    ASSIGN_OR_RETURN(
        const std::vector<Tensor> outputs,
        harness_.Run(*model_, {Over({"image", DType::kFloat32, std::move(shape)}, values)}));
    float result;
    EXPECT_EQ(outputs.at(0).bytes.size(), sizeof(result));
    std::memcpy(&result, outputs[0].bytes.data(), sizeof(result));
    return result;
  }

  const std::unique_ptr<Model> model_ = MakeRowMeanStd();
  ModelHarness harness_;
};

std::vector<float> ReadFloats(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  std::vector<float> values(file.tellg() / sizeof(float));
  file.seekg(0).read(reinterpret_cast<char*>(values.data()), values.size() * sizeof(float));
  EXPECT_TRUE(file) << path;
  return values;
}

TEST_F(RowMeanStdTest, Ramp) {
  std::vector<float> image(3000 * 2500);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<float>(i) / 7'500'000;
  EXPECT_NEAR(Run({3000, 2500}, image).value(), 0.2886751, 1e-6);
}

TEST_F(RowMeanStdTest, OneElementStandsForTheWholeImage) {
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{1, 1}, Shape{1, 1, 1}}) {
    EXPECT_EQ(Run(shape, {42}).value(), 0) << ToString(shape);
  }
}

TEST_F(RowMeanStdTest, OneRowHasNoDeviation) { EXPECT_EQ(Run({1, 3}, {1, 5, 9}).value(), 0); }

TEST_F(RowMeanStdTest, OneColumnIsItsOwnMeans) { EXPECT_EQ(Run({4, 1}, {1, 1, 3, 3}).value(), 1); }

TEST_F(RowMeanStdTest, RefusesAnEmptyImage) {
  for (const Shape& shape : {Shape{0, 2500}, Shape{3000, 0}, Shape{0, 0}}) {
    EXPECT_EQ(Run(shape, {}).status().code(), absl::StatusCode::kInvalidArgument)
        << ToString(shape);
  }
}

TEST_F(RowMeanStdTest, RefusesWhatIsNoImage) {
  EXPECT_EQ(Run({6}, {1, 2, 3, 4, 5, 6}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RowMeanStdTest, NanAndInfinityGiveNan) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {nan, infinity, -infinity}) {
    EXPECT_TRUE(std::isnan(Run({2, 2}, {1, bad, 3, 4}).value())) << bad;
    EXPECT_TRUE(std::isnan(Run({}, {bad}).value())) << bad;
  }
}

TEST_F(RowMeanStdTest, LargestFloatsDoNotOverflow) {
  const float max = std::numeric_limits<float>::max();
  EXPECT_EQ(Run({2, 2}, {max, max, -max, -max}).value(), max);
}

// The oracle writes images and prints "FILE ROWS COLUMNS STD" for each.
TEST_F(RowMeanStdTest, AgreesWithNumpy) {
  REQUIRE_NUMPY();
  const std::string folder = testing::TempDir();
  std::istringstream lines(RunNumpy(folder));
  std::string file, expected;
  int count = 0;
  for (int64_t rows, columns; lines >> file >> rows >> columns >> expected; ++count) {
    const float actual = Run({rows, columns}, ReadFloats(folder + file)).value();
    if (expected == "nan") {
      EXPECT_TRUE(std::isnan(actual)) << file << " " << actual;
    } else {
      EXPECT_FLOAT_EQ(actual, static_cast<float>(std::stod(expected))) << file;
    }
  }
  EXPECT_GT(count, 10);
}

}  // namespace
}  // namespace millrace
