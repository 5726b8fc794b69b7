// The sums of the rows of a matrix of floats, in double, as fast as memory can be read.
#pragma once

#include <cstddef>

namespace millrace {

// Writes the sum of each of the `rows` rows, of `columns` values each, to `sums`.  Uses the widest
// instructions that the machine has; which ones changes the order of the additions, and so perhaps
// the last bits.
void RowSums(const float* values, size_t rows, size_t columns, double* sums);

namespace internal {

// One for each set of instructions; a machine without them must not call it.
void RowSumsPortable(const float* values, size_t rows, size_t columns, double* sums);
void RowSumsSse2(const float* values, size_t rows, size_t columns, double* sums);
void RowSumsAvx2(const float* values, size_t rows, size_t columns, double* sums);
void RowSumsAvx512(const float* values, size_t rows, size_t columns, double* sums);

}  // namespace internal
}  // namespace millrace
