// RowSums on machines other than x86-64.
#include "server/models/row_sums.h"

namespace millrace {

void RowSums(const float* values, size_t rows, size_t columns, double* sums) {
  internal::RowSumsPortable(values, rows, columns, sums);
}

}  // namespace millrace
