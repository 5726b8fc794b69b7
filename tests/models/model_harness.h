// Runs a model as the engine would, without the engine.
#pragma once

#include <absl/status/statusor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "server/core/model.h"
#include "server/core/slab_pool.h"
#include "server/core/status_macros.h"

namespace millrace {

// A tensor over memory of the caller's.
template <class T>
Tensor Over(TensorMeta meta, const std::vector<T>& values) {
  Tensor tensor;
  tensor.meta = std::move(meta);
  tensor.bytes = {reinterpret_cast<const std::byte*>(values.data()), values.size() * sizeof(T)};
  return tensor;
}

class ModelHarness {
 public:
  absl::StatusOr<std::vector<Tensor>> Run(Model& model, std::vector<Tensor> inputs) {
    std::vector<TensorMeta> metas;
    for (const Tensor& input : inputs) metas.push_back(input.meta);
    RETURN_IF_ERROR(CheckInputs(model.spec(), metas));
    Request request;
    request.inputs = std::move(inputs);
    Outputs outputs(pool_);
    RETURN_IF_ERROR(model.Run(request, outputs));
    return std::move(outputs).Take();
  }

 private:
  SlabPool pool_{SlabPoolOptions{.limit = 1 << 20}};
};

}  // namespace millrace
