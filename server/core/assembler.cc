#include "server/core/assembler.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "server/core/errors.h"
#include "server/core/status_macros.h"

namespace millrace {
namespace {

constexpr uint64_t kMinGrowth = 2 << 20;

uint64_t AlignUp(uint64_t offset) {
  return (offset + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
}

}  // namespace

absl::StatusOr<uint64_t> Assembler::SlabSize(absl::Span<const TensorMeta> tensors) {
  uint64_t end = 0;
  for (const TensorMeta& tensor : tensors) {
    ASSIGN_OR_RETURN(const uint64_t size, ByteSize(tensor.dtype, tensor.shape));
    end = AlignUp(end) + size;  // Below 2^63 + 64 + 2^63: no overflow.
    if (end > INT64_MAX)
      return absl::InvalidArgumentError("the tensors have more bytes than 63 bits count");
  }
  return end;
}

Assembler::Assembler(std::unique_ptr<Slab> slab, std::vector<TensorMeta> tensors)
    : slab_(std::move(slab)), tensors_(std::move(tensors)), known_(true) {
  uint64_t end = 0;
  for (const TensorMeta& tensor : tensors_) {
    const uint64_t size = ByteSize(tensor.dtype, tensor.shape).value();
    parts_.push_back({AlignUp(end), size});
    end = AlignUp(end) + size;
    total_ += size;
  }
  SkipFullParts();
}

Assembler::Assembler(std::unique_ptr<Slab> slab, uint64_t limit)
    : slab_(std::move(slab)), parts_{{0, limit}}, known_(false), total_(limit) {}

absl::StatusOr<absl::Span<std::byte>> Assembler::Space() {
  if (remaining() == 0) return TooLargeError(absl::StrCat("more than ", total_, " bytes came"));
  const Part& part = parts_[part_];
  const uint64_t begin = part.offset + filled_;
  if (!known_ && begin == slab_->size()) {
    const uint64_t size = begin + std::max(begin / 2, kMinGrowth);
    RETURN_IF_ERROR(slab_->Grow(std::min(size, total_)));
  }
  RETURN_IF_ERROR(slab_->Map());
  const uint64_t end = std::min(part.offset + part.size, slab_->size());
  return absl::MakeSpan(slab_->data() + begin, end - begin);
}

void Assembler::Commit(size_t size) {
  received_.store(received() + size, std::memory_order_relaxed);
  filled_ += size;
  SkipFullParts();
  if (received() >= next_step_) Tell();
}

void Assembler::Watch(uint64_t step, OnStep on_step) {
  step_ = next_step_ = step;
  on_step_ = std::move(on_step);
}

void Assembler::Tell() {
  next_step_ = received() + step_;
  if (remaining() > 0) on_step_(absl::MakeConstSpan(slab_->data(), received()));
}

absl::StatusOr<std::vector<Tensor>> Assembler::TakeTensors() {
  if (!known_ || remaining() > 0)
    return absl::InternalError("tensors taken before they are complete");
  const std::shared_ptr<Slab> slab = std::move(slab_);
  std::vector<Tensor> tensors;
  tensors.reserve(tensors_.size());
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const absl::Span<const std::byte> bytes =
        parts_[i].size == 0 ? absl::Span<const std::byte>()
                            : absl::MakeConstSpan(slab->data() + parts_[i].offset, parts_[i].size);
    tensors.push_back({{std::move(tensors_[i]), bytes}, slab, slab.get()});
  }
  return tensors;
}

absl::StatusOr<Tensor> Assembler::TakeBytes() {
  if (known_) return absl::InternalError("bytes taken of known tensors");
  const std::shared_ptr<Slab> slab = std::move(slab_);
  const absl::Span<const std::byte> bytes(slab->data(), received());
  return Tensor{{{"", DType::kUint8, {static_cast<int64_t>(received())}}, bytes}, slab, slab.get()};
}

void Assembler::SkipFullParts() {
  while (known_ && part_ < parts_.size() && filled_ == parts_[part_].size) {
    ++part_;
    filled_ = 0;
  }
}

}  // namespace millrace
