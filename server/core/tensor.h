// A tensor that keeps its bytes alive.
#pragma once

#include <memory>

#include "proto/wire/tensor.h"

namespace millrace {

class Slab;

// Cheap to copy: copies share the bytes.
struct Tensor : TensorView {
  // Keeps the bytes: a slab, or small memory of its own.  Shared by the tensors of one request, the
  // model that runs on them, and the transport that sends those that come back; the last of them
  // returns the memory.
  std::shared_ptr<const void> owner;

  // The slab that holds the bytes, if one does, for those who hand them to another process.  Kept
  // by `owner`.
  const Slab* slab = nullptr;
};

}  // namespace millrace
