#include "server/models/row_sums.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <random>
#include <string>
#include <vector>

namespace millrace {
namespace {

struct Kernel {
  std::string name;
  void (*run)(const float*, size_t, size_t, double*);
  bool supported = true;

  friend void PrintTo(const Kernel& kernel, std::ostream* out) { *out << kernel.name; }
};

const Kernel kKernels[] = {
    {"Best", RowSums},
    {"Portable", internal::RowSumsPortable},
#ifdef __x86_64__
    {"Sse2", internal::RowSumsSse2},
    {"Avx2", internal::RowSumsAvx2, __builtin_cpu_supports("avx2") != 0},
    {"Avx512", internal::RowSumsAvx512, __builtin_cpu_supports("avx512f") != 0},
#endif
};

class RowSumsTest : public testing::TestWithParam<Kernel> {
 protected:
  void SetUp() override {
    if (!GetParam().supported) GTEST_SKIP() << "not on this machine";
  }
};

// Small integers: every order of additions gives the same sum.
std::vector<float> SmallIntegers(size_t size) {
  std::mt19937 random(7);
  std::uniform_int_distribution<int> values(-1000, 1000);
  std::vector<float> result(size);
  for (float& value : result) value = static_cast<float>(values(random));
  return result;
}

TEST_P(RowSumsTest, SumsRowsOfAnyLengthAtAnyAlignment) {
  constexpr size_t kRows = 3;
  for (size_t columns = 0; columns <= 300; ++columns) {
    const size_t start = columns % 16;
    const std::vector<float> values = SmallIntegers(start + kRows * columns);
    std::vector<double> sums(kRows, -1);
    GetParam().run(values.data() + start, kRows, columns, sums.data());
    for (size_t row = 0; row < kRows; ++row) {
      double expected = 0;
      for (size_t i = 0; i < columns; ++i) expected += values[start + row * columns + i];
      EXPECT_EQ(sums[row], expected) << "row " << row << " of " << columns;
    }
  }
}

TEST_P(RowSumsTest, KeepsWhatFloatWouldLose) {
  const std::vector<float> values(2500, 16'777'217.0f / 3);
  double sum = 0;
  GetParam().run(values.data(), 1, values.size(), &sum);
  EXPECT_DOUBLE_EQ(sum, 2500.0 * values[0]);
}

TEST_P(RowSumsTest, WritesNothingForNoRows) { GetParam().run(nullptr, 0, 2500, nullptr); }

INSTANTIATE_TEST_SUITE_P(Kernels, RowSumsTest, testing::ValuesIn(kKernels),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace millrace
