// Runs a model as the engine would, without the engine.
#pragma once

#include <absl/status/statusor.h>

#include <cstdint>
#include <memory>
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
    RETURN_IF_ERROR(Check(model, inputs));
    Request request;
    request.inputs = std::move(inputs);
    Outputs outputs(pool_);
    RETURN_IF_ERROR(model.Run(request, outputs));
    return std::move(outputs).Take();
  }

  // Shows the input a row more at a time, as if it arrived so; nothing if the model wants it whole.
  absl::StatusOr<std::vector<Tensor>> RunEarly(Model& model, const Tensor& input) {
    RETURN_IF_ERROR(Check(model, {input}));
    const std::unique_ptr<EarlyRun> run = model.StartEarly(input.meta, {});
    Outputs outputs(pool_);
    const int64_t rows = run == nullptr ? 0 : input.meta.shape.at(0);
    for (int64_t row = 1; row <= rows; ++row) {
      const size_t size = input.bytes.size() / rows * row;
      RETURN_IF_ERROR(run->OnRows(input.bytes.first(size), outputs));
    }
    return std::move(outputs).Take();
  }

 private:
  static absl::Status Check(const Model& model, const std::vector<Tensor>& inputs) {
    std::vector<TensorMeta> metas;
    for (const Tensor& input : inputs) metas.push_back(input.meta);
    return CheckInputs(model.spec(), metas);
  }

  SlabPool pool_{SlabPoolOptions{.limit = 1 << 20}};
};

}  // namespace millrace
