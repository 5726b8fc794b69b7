#include "client/cpp/borrowed_slices.h"

#include <algorithm>

namespace millrace::internal {

BorrowedSlices::BorrowedSlices(absl::Span<const TensorView> tensors) : tensors_(tensors) {
  for (const TensorView& tensor : tensors) total_ += tensor.bytes.size();
  left_ = total_;
}

std::vector<grpc::Slice> BorrowedSlices::Next(uint64_t max_size) {
  std::vector<grpc::Slice> slices;
  uint64_t room = std::min(max_size, left_);
  while (room > 0) {
    const absl::Span<const std::byte> bytes = tensors_[current_].bytes.subspan(offset_);
    const size_t size = std::min<uint64_t>(room, bytes.size());
    if (size > 0) {
      in_use_.fetch_add(1, std::memory_order_relaxed);
      slices.emplace_back(const_cast<std::byte*>(bytes.data()), size, &Release, this);
    }
    offset_ += size;
    left_ -= size;
    room -= size;
    if (size == bytes.size()) {
      ++current_;
      offset_ = 0;
    }
  }
  return slices;
}

void BorrowedSlices::Release(void* self) {
  static_cast<BorrowedSlices*>(self)->in_use_.fetch_sub(1, std::memory_order_release);
}

}  // namespace millrace::internal
