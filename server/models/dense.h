// A dense layer: heavy work on each row, done while the next ones arrive.
//
//   image  float32[-1,2500]   ──►   y  float32[-1,48]
//
//   y_rj = sum_i image_ri w_ij,   w_ij = ((7 i + 13 j) mod 31 - 15) / 1024
//
// with i, j from 0: numpy's image @ w, in float.  It stands for models that take longer than their
// input takes to arrive, and shows how one works on the rows that are there (see EarlyRun).  The
// request parameter "overlap" with the value "false" has it wait for all rows, to compare.
#pragma once

#include <memory>

#include "server/core/model.h"

namespace millrace {

std::unique_ptr<Model> MakeDense();

}  // namespace millrace
