// Tensors out of JSON text, as KServe V1 and TensorFlow Serving write it:
//
//   {"inputs": VALUE}            {"inputs": {"NAME": VALUE, ...}}
//   {"instances": [ROW, ...]}    {"instances": [{"NAME": ROW, ...}, ...]}
//
// VALUE is a number, a boolean or nested arrays of one shape.  TensorFlow's "signature_name" may be
// there too, and is ignored: a model has one signature.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <vector>

#include "server/core/model.h"
#include "server/core/slab_pool.h"
#include "server/core/tensor.h"

namespace millrace {

struct JsonRequest {
  std::vector<Tensor> tensors;
  bool by_rows = false;  // "instances"
};

// Bytes behind the text that may be read, whatever they are.
size_t JsonPadding();

// Types are those of the model's inputs; of a model that takes any tensors, as DetectType says:
// float32 if one value of the tensor is, else int64 or uint64.  Numbers go straight into slabs of
// the pool.  INVALID_ARGUMENT says where: "instances[3][17]: ..."; RESOURCE_EXHAUSTED when the pool
// has not the room.
absl::StatusOr<JsonRequest> ReadJsonRequest(absl::string_view text, const ModelSpec& spec,
                                            SlabPool& pool);

}  // namespace millrace
