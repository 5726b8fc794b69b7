// A tensor that keeps its bytes alive.
#pragma once

#include <memory>
#include <vector>

#include "proto/wire/tensor.h"
#include "server/core/slab_pool.h"

namespace millrace {

// Cheap to copy: copies share the slab.
struct Tensor : TensorView {
  // Holds the bytes.  Shared by the tensors of one request, the model that runs on them, and the transport that sends
  // those that come back; the last of them returns the memory.
  std::shared_ptr<const Slab> slab;
};

}  // namespace millrace
