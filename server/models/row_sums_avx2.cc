// Compiled with -mavx2.
#include <immintrin.h>

#include "server/models/row_sums.h"
#include "server/models/row_sums_kernel.h"

namespace millrace::internal {

void RowSumsAvx2(const float* values, size_t rows, size_t columns, double* sums) {
  using Kernel = RowSumsKernel<xsimd::avx2>;
  Kernel::Run(values, rows, columns, sums,
              [](const float* p) { return Kernel::Lanes(_mm256_cvtps_pd(_mm_loadu_ps(p))); });
}

}  // namespace millrace::internal
