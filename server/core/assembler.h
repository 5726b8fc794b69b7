// Writes arriving bytes into a slab.
//
// The bytes of the tensors come one after another without padding; in the slab each tensor starts
// at a multiple of 64 bytes.  Both transports fill the same way:
//
//   while (assembler.remaining() > 0) {
//     ASSIGN_OR_RETURN(absl::Span<std::byte> space, assembler.Space());
//     assembler.Commit(Receive(space));
//   }
//
// No list of pieces is kept, so that a million one-byte pieces cost a million small calls and no
// memory.
#pragma once

#include <absl/functional/any_invocable.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "proto/wire/tensor.h"
#include "server/core/slab_pool.h"
#include "server/core/tensor.h"

namespace millrace {

inline constexpr size_t kTensorAlignment = 64;

// Used by one thread at a time, but for received(), which any thread may call.
class Assembler {
 public:
  // Bytes that a slab needs for these tensors.  Errors as ByteSize, and when the sum does not fit
  // 63 bits.
  static absl::StatusOr<uint64_t> SlabSize(absl::Span<const TensorMeta> tensors);

  // For tensors that are known beforehand; `slab` has SlabSize(tensors) bytes.
  Assembler(std::unique_ptr<Slab> slab, std::vector<TensorMeta> tensors);

  // For bytes whose meaning is known only when all are here; the slab grows as they come, up to
  // `limit` bytes.
  Assembler(std::unique_ptr<Slab> slab, uint64_t limit);

  // Where the next bytes go: never empty while remaining() > 0.  Maps the slab at the first call,
  // and grows it for unknown tensors.  RESOURCE_EXHAUSTED when that fails, or beyond `limit`.
  absl::StatusOr<absl::Span<std::byte>> Space();

  // The first `size` bytes of Space() are written.  Requires size <= Space().size().
  void Commit(size_t size);

  // Has Commit() tell, each time that `step` bytes more are here but not when all are, what the
  // single tensor has so far.  Requires known tensors, one; call before the first Space().
  using OnStep = absl::AnyInvocable<void(absl::Span<const std::byte>)>;
  void Watch(uint64_t step, OnStep on_step);

  // Bytes still to come; for unknown tensors, bytes below the limit.
  uint64_t remaining() const { return total_ - received(); }
  uint64_t received() const { return received_.load(std::memory_order_relaxed); }

  // The tensors, over the slab.  Requires known tensors and remaining() == 0.  Ends the assembler's
  // use.
  absl::StatusOr<std::vector<Tensor>> TakeTensors();

  // The bytes so far as one tensor of type uint8 and rank 1.  Requires unknown tensors.  Ends the
  // assembler's use.
  absl::StatusOr<Tensor> TakeBytes();

 private:
  struct Part {
    uint64_t offset;  // in the slab
    uint64_t size;
  };

  void SkipFullParts();
  void Tell();

  std::unique_ptr<Slab> slab_;
  std::vector<TensorMeta> tensors_;
  std::vector<Part> parts_;  // one a tensor; a single one for unknown tensors
  const bool known_;
  uint64_t total_ = 0;
  std::atomic<uint64_t> received_ = 0;
  size_t part_ = 0;      // the one being filled
  uint64_t filled_ = 0;  // of it

  uint64_t step_ = 0;
  uint64_t next_step_ = UINT64_MAX;  // when so much is here, on_step_ is told
  OnStep on_step_;
};

}  // namespace millrace
