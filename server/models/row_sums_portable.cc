// For any machine: plain C++, in a form that compilers vectorise.
#include "server/models/row_sums.h"

namespace millrace::internal {
namespace {

constexpr size_t kLanes = 16;

double RowSum(const float* values, size_t columns) {
  double lanes[kLanes] = {};
  size_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) lanes[k] += values[i + k];
  }
  double sum = 0;
  for (; i < columns; ++i) sum += values[i];
  for (double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

void RowSumsPortable(const float* values, size_t rows, size_t columns, double* sums) {
  for (size_t row = 0; row < rows; ++row) sums[row] = RowSum(values + row * columns, columns);
}

}  // namespace millrace::internal
