// The standard deviation of an image's row means.
//
//   image  float32[-1,-1]   ──►   std  float32[]
//
// With r_i the mean of row i, and R rows, as NumPy has it in image.mean(axis=1).std(axis=0):
//
//   std = sqrt( (1/R) sum_i (r_i - r)^2 ),   r = (1/R) sum_i r_i
//
// the population's deviation (ddof = 0; numpy.std, "Notes").  Sums are kept in double, so that the
// answer is that of NumPy on image.astype(float64), rounded once: a large offset does not drown it.
// NaN and infinity give NaN.
//
// One element, of any rank, stands for an image of that value everywhere: 0.
#pragma once

#include <memory>

#include "server/core/model.h"

namespace millrace {

std::unique_ptr<Model> MakeRowMeanStd();

}  // namespace millrace
