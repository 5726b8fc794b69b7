// Compiled with -mavx512f.
#include <immintrin.h>

#include "server/models/row_sums.h"
#include "server/models/row_sums_kernel.h"

namespace millrace::internal {

void RowSumsAvx512(const float* values, size_t rows, size_t columns, double* sums) {
  using Kernel = RowSumsKernel<xsimd::avx512f>;
  Kernel::Run(values, rows, columns, sums, [](const float* p) {
    // _mm512_cvtps_pd, but for a false warning of GCC 12.
    return Kernel::Lanes(_mm512_maskz_cvtps_pd(0xff, _mm256_loadu_ps(p)));
  });
}

}  // namespace millrace::internal
