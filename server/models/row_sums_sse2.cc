// For every x86-64 machine.
#include <emmintrin.h>

#include "server/models/row_sums.h"
#include "server/models/row_sums_kernel.h"

namespace millrace::internal {

void RowSumsSse2(const float* values, size_t rows, size_t columns, double* sums) {
  using Kernel = RowSumsKernel<xsimd::sse2>;
  Kernel::Run(values, rows, columns, sums, [](const float* p) {
    const __m128i two = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return Kernel::Lanes(_mm_cvtps_pd(_mm_castsi128_ps(two)));
  });
}

}  // namespace millrace::internal
