// The arena: memory for tensors, under one byte budget.
//
// A slab is a contiguous, page-aligned piece of memory that is lent to one request and then used
// again.  Its pages come from a memfd, so that another process can map them.  They stay mapped from
// one request to the next, because mapping and touching 30 MB costs three times what receiving them
// does.
//
// Bytes are promised before they are taken: a Slab is first a claim on the budget, and the memory
// behind it is mapped when the first byte arrives and committed by the kernel page by page as bytes
// are written.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/status/statusor.h>
#include <absl/time/time.h>
#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "server/core/clock.h"
#include "server/core/mutex.h"

namespace millrace {

class SlabPool;

struct SlabPoolOptions {
  // Bytes that may be promised, lent and kept for reuse, all together; rounded up to whole pages.
  uint64_t limit = uint64_t{1} << 30;

  // How long memory is kept for reuse after its last use.
  absl::Duration trim_after = absl::Seconds(30);
};

// A memfd and where it is mapped.  Owned by a slab or by the pool's idle list.
struct SlabMapping {
  std::byte* data = nullptr;
  uint64_t size = 0;
  int fd = -1;
  uint64_t id = 0;
  absl::Time idle_since;
};

// A promise of bytes and, from Map() on, the bytes.  Not thread-safe; the memory may be read by any
// number of threads. Gives everything back to its pool when it is destroyed, on any thread.
class Slab {
 public:
  ~Slab();
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  // Bytes promised, and at least as many mapped once mapped.
  uint64_t size() const { return size_; }
  bool mapped() const { return mapping_.data != nullptr && mapping_.size >= size_; }

  // Maps the memory; nothing if it is mapped.  RESOURCE_EXHAUSTED when the machine has no
  // descriptor or address space for it.
  absl::Status Map();

  // The start of the memory, page-aligned, for writing.  Requires mapped().  What it held before is
  // unspecified.
  std::byte* data() { return mapping_.data; }
  const std::byte* data() const { return mapping_.data; }

  // Makes the promise, and the memory if mapped, at least `size` bytes; contents stay, data() may
  // move.  May give up idle memory, as SlabPool::Promise().  RESOURCE_EXHAUSTED when the budget has
  // not the room; the slab is then as it was.
  absl::Status Grow(uint64_t size);

  // The memfd behind the memory, owned by the slab; which memory it is, never used again for
  // another; and the bytes of it, which a later slab over the same memory may have more of. Require
  // mapped().
  int fd() const { return mapping_.fd; }
  uint64_t memory_id() const { return mapping_.id; }
  uint64_t memory_size() const { return mapping_.size; }

 private:
  friend class SlabPool;
  Slab(SlabPool& pool, uint64_t size, SlabMapping mapping)
      : pool_(pool), size_(size), mapping_(mapping) {}

  SlabPool& pool_;
  uint64_t size_;
  SlabMapping mapping_;  // none, or one that has yet to grow to size_
};

// Thread-safe.  Must outlive its slabs.
class SlabPool {
 public:
  struct Usage {
    uint64_t promised = 0;  // lent to requests, mapped or not
    uint64_t idle = 0;      // kept for reuse
    uint64_t peak = 0;      // the most that both were together
  };

  explicit SlabPool(SlabPoolOptions options, const Clock& clock = RealClock());
  ~SlabPool();

  // Promises at least `size` bytes; null when there is no room beside what is promised and idle
  // now.  Never blocks for long.
  std::unique_ptr<Slab> TryPromise(uint64_t size);

  // The same, but gives up idle memory if the budget needs it, which takes up to a millisecond a
  // megabyte; null when even that does not make room.
  std::unique_ptr<Slab> Promise(uint64_t size);

  // Gives up some of what has been idle for longer than `trim_after`; to be called again and again.
  void Trim();

  // `on_release` is called after every return of bytes, on the thread that returned them; it must
  // not block and must not call the pool.  Call once, before the first promise.
  void SetOnRelease(std::function<void()> on_release) { on_release_ = std::move(on_release); }

  // `on_give_up` is called with the id of memory that was given up, on any thread, for those who
  // told another process of it; its pages are the system's again, whoever still maps them.  It must
  // not call the pool.  Call once, before the first promise.
  void SetOnGiveUp(std::function<void(uint64_t memory_id)> on_give_up) {
    on_give_up_ = std::move(on_give_up);
  }

  uint64_t limit() const { return options_.limit; }
  Usage usage() const;

 private:
  friend class Slab;
  using Idle = std::multimap<uint64_t, SlabMapping>;  // by size

  absl::Status MapSlab(Slab& slab);
  absl::Status GrowSlab(Slab& slab, uint64_t size);
  void Return(Slab& slab);

  // Gives up idle memory until `size` more bytes have room; false when there is not enough.
  bool Reclaim(uint64_t size);

  // Gives up the idle mapping, or about `size` bytes of it if it is much larger.  Unlocks
  // meanwhile: what is being given up still counts as idle, but cannot be claimed.
  void GiveUp(Idle::iterator it, uint64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // The smallest idle mapping that fits without much waste, or else one that needs no more than to
  // be doubled; data is null if there is none for which the limit has room.
  SlabMapping ClaimIdle(uint64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  SlabMapping TakeIdle(Idle::iterator it) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Idle::iterator OldestIdle() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  bool HasRoom(uint64_t size) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AddPromised(uint64_t size) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction, or before first use.
  const SlabPoolOptions options_;
  const Clock& clock_;
  std::function<void()> on_release_;
  std::function<void(uint64_t)> on_give_up_;

  mutable Mutex mu_;
  Idle idle_ ABSL_GUARDED_BY(mu_);
  uint64_t idle_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t promised_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t peak_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace millrace
