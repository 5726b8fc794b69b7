// The caller's bytes as gRPC slices, and when gRPC is done with them.
#pragma once

#include <absl/types/span.h>
#include <grpcpp/support/slice.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "proto/wire/tensor.h"

namespace millrace::internal {

// Cuts the bytes of several tensors, one after another, into slices that refer to them.
//
// A call that fails may end while gRPC still has slices of it to write, so the slices are counted:
// the tensors must live until in_use() is zero, and this object too.
class BorrowedSlices {
 public:
  explicit BorrowedSlices(absl::Span<const TensorView> tensors);
  BorrowedSlices(const BorrowedSlices&) = delete;
  BorrowedSlices& operator=(const BorrowedSlices&) = delete;

  // The next bytes, at most `max_size`; fewer only at the end.
  std::vector<grpc::Slice> Next(uint64_t max_size);

  uint64_t total() const { return total_; }
  uint64_t left() const { return left_; }

  // How many slices gRPC has not let go of.  Thread-safe.
  int in_use() const { return in_use_.load(std::memory_order_acquire); }

 private:
  static void Release(void* self);

  const absl::Span<const TensorView> tensors_;
  size_t current_ = 0;  // the tensor that comes next
  size_t offset_ = 0;   // in it
  uint64_t total_ = 0;
  uint64_t left_ = 0;
  std::atomic<int> in_use_ = 0;
};

}  // namespace millrace::internal
