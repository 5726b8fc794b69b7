// RowSums where there is SSE2, and perhaps more.
#include <xsimd/xsimd.hpp>

#include "server/models/row_sums.h"

namespace millrace {
namespace {

struct Kernels {
  using Archs = xsimd::arch_list<xsimd::avx512f, xsimd::avx2, xsimd::sse2>;

  void operator()(xsimd::avx512f, const float* values, size_t rows, size_t columns, double* sums) {
    internal::RowSumsAvx512(values, rows, columns, sums);
  }
  void operator()(xsimd::avx2, const float* values, size_t rows, size_t columns, double* sums) {
    internal::RowSumsAvx2(values, rows, columns, sums);
  }
  void operator()(xsimd::sse2, const float* values, size_t rows, size_t columns, double* sums) {
    internal::RowSumsSse2(values, rows, columns, sums);
  }
};

}  // namespace

void RowSums(const float* values, size_t rows, size_t columns, double* sums) {
  xsimd::dispatch<Kernels::Archs>(Kernels{})(values, rows, columns, sums);
}

}  // namespace millrace
