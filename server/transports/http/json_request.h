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

#include <boost/asio/thread_pool.hpp>

#include "server/core/model.h"
#include "server/core/slab_pool.h"
#include "server/core/tensor.h"

namespace millrace {

struct JsonRequest {
  std::vector<Tensor> tensors;
  bool by_rows = false;  // "instances"
};

struct JsonOptions {
  // Bytes of a VALUE that one thread reads at a time.
  size_t stretch = 256 << 10;
};

// Behind the text are kJsonPadding (json_number.h) bytes of zero.  This thread reads it, and, where
// a VALUE is larger than a stretch, the workers with it; this thread may be one of them.
//
// Types are those of the model's inputs; of a model that takes any tensors, as DetectType says:
// float32 if one value of the tensor is, else int64 or uint64.  Numbers go straight into slabs of
// the pool, which are promised once the text has been looked at, and never have more than the text
// can hold.  INVALID_ARGUMENT says where: "instances[3][17]: ..."; RESOURCE_EXHAUSTED when the pool
// has not the room.
absl::StatusOr<JsonRequest> ReadJsonRequest(absl::string_view text, const ModelSpec& spec,
                                            SlabPool& pool, boost::asio::thread_pool& workers,
                                            JsonOptions options = {});

}  // namespace millrace
