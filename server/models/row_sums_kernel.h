// The kernel behind RowSums, for any xsimd architecture.  Included by one source file for each,
// which is compiled with that architecture's flags and says how to widen floats for it.
//
// Everything here depends on Arch or is local: a function that another file might share, such as
// one of std, could be compiled with this file's flags and then be called on a machine without
// those instructions.
#pragma once

#include <cstddef>
#include <cstdint>

#include <xsimd/xsimd.hpp>

namespace millrace::internal {

// The fastest distance, measured, where 8 KiB costs a sixth more and none a third: it carries the
// processor's own prefetching over the ends of pages and rows.
inline constexpr uintptr_t kPrefetchAhead = 16 << 10;

inline constexpr size_t kCacheLine = 64;

template <class Arch>
struct RowSumsKernel {
  using Lanes = xsimd::batch<double, Arch>;

  // `widen(p)` loads Lanes::size floats from `p`, which need not be aligned, as doubles.
  template <class Widen>
  static void Run(const float* values, size_t rows, size_t columns, double* sums, Widen widen) {
    for (size_t row = 0; row < rows; ++row, values += columns) {
      sums[row] = RowSum(values, columns, widen);
    }
  }

 private:
  // Additions have a latency, which this many independent ones hide.
  static constexpr size_t kChains = 8;
  static constexpr size_t kStep = kChains * Lanes::size;

  template <class Widen>
  static double RowSum(const float* values, size_t columns, Widen widen) {
    Lanes chains[kChains];
    for (Lanes& chain : chains) chain = Lanes(0.0);
    size_t i = 0;
    for (; i + kStep <= columns; i += kStep) {
      Prefetch(values + i);
      for (size_t k = 0; k < kChains; ++k) chains[k] += widen(values + i + k * Lanes::size);
    }
    for (; i + Lanes::size <= columns; i += Lanes::size) chains[0] += widen(values + i);
    double sum = Sum(chains);
    for (; i < columns; ++i) sum += values[i];
    return sum;
  }

  static double Sum(const Lanes (&chains)[kChains]) {
    const Lanes total = ((chains[0] + chains[1]) + (chains[2] + chains[3])) +
                        ((chains[4] + chains[5]) + (chains[6] + chains[7]));
    alignas(Arch::alignment()) double lanes[Lanes::size];
    total.store_aligned(lanes);
    double sum = 0;
    for (double lane : lanes) sum += lane;
    return sum;
  }

  // What one step reads, and perhaps beyond the matrix's end, which is harmless.
  static void Prefetch(const float* values) {
    const uintptr_t ahead = reinterpret_cast<uintptr_t>(values) + kPrefetchAhead;
    for (size_t i = 0; i < kStep * sizeof(float); i += kCacheLine) {
      __builtin_prefetch(reinterpret_cast<const void*>(ahead + i));
    }
  }
};

}  // namespace millrace::internal
