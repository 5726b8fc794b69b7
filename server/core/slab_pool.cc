#include "server/core/slab_pool.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <utility>
#include <vector>

namespace millrace {
namespace {

constexpr uint64_t kGranule = 64 << 10;
constexpr uint64_t kHugePage = 2 << 20;

// Idle memory of up to this many times the need is taken rather than new memory mapped.
constexpr uint64_t kMaxSlack = 4;
constexpr uint64_t kSmall = 1 << 20;

// Giving memory up takes up to a millisecond a megabyte; larger slabs are given up in steps of
// this.
constexpr uint64_t kGiveUpStep = 64 << 20;

uint64_t RoundUp(uint64_t size, uint64_t unit) { return (size + unit - 1) / unit * unit; }

uint64_t SlabBytes(uint64_t size) { return RoundUp(size, size < kHugePage ? kGranule : kHugePage); }

// The largest idle mapping that a promise of `size` bytes may take.
uint64_t MostFor(uint64_t size) { return kMaxSlack * std::max(size, kSmall); }

absl::Status SystemError(absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat(what, ": ", strerror(errno)));
}

// Address space at a multiple of kHugePage, so that the kernel may back it with huge pages; null on
// failure.
void* ReserveAligned(uint64_t size) {
  const uint64_t span = size + kHugePage;
  void* const reserved =
      mmap(nullptr, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(reserved);
  const uintptr_t start = RoundUp(begin, kHugePage);
  if (start > begin) munmap(reserved, start - begin);
  munmap(reinterpret_cast<void*>(start + size), begin + span - (start + size));
  return reinterpret_cast<void*>(start);
}

// Makes the memfd and its mapping larger.  The pages that were mapped stay mapped.
absl::Status Extend(SlabMapping& mapping, uint64_t size) {
  if (ftruncate(mapping.fd, static_cast<off_t>(size)) != 0)
    return SystemError("no memory for the tensor");
  void* const target = ReserveAligned(size);
  if (target == nullptr) return SystemError("no address space for the tensor");
  void* const data =
      mapping.data == nullptr
          ? mmap(target, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, mapping.fd, 0)
          : mremap(mapping.data, mapping.size, size, MREMAP_MAYMOVE | MREMAP_FIXED, target);
  if (data == MAP_FAILED) {
    const absl::Status status = SystemError("no memory for the tensor");
    munmap(target, size);
    return status;
  }
  madvise(data, size, MADV_HUGEPAGE);
  mapping.data = static_cast<std::byte*>(data);
  mapping.size = size;
  return absl::OkStatus();
}

absl::StatusOr<SlabMapping> NewMapping(uint64_t size) {
  static std::atomic<uint64_t> last_id = 0;
  SlabMapping mapping;
  mapping.id = ++last_id;
  mapping.fd = memfd_create("millrace-slab", MFD_CLOEXEC);
  if (mapping.fd < 0) return SystemError("no descriptor for the tensor's memory");
  if (absl::Status status = Extend(mapping, size); !status.ok()) {
    close(mapping.fd);
    return status;
  }
  return mapping;
}

void Truncate(const SlabMapping& mapping, uint64_t size) {
  (void)!ftruncate(mapping.fd, static_cast<off_t>(size));  // Making a memfd smaller does not fail.
}

// Truncated first, so that the pages are free even if another process maps them yet.
void Unmap(const SlabMapping& mapping) {
  munmap(mapping.data, mapping.size);
  Truncate(mapping, 0);
  close(mapping.fd);
}

void Shrink(SlabMapping& mapping, uint64_t size) {
  munmap(mapping.data + size, mapping.size - size);
  Truncate(mapping, size);
  mapping.size = size;
}

}  // namespace

Slab::~Slab() { pool_.Return(*this); }

absl::Status Slab::Map() {
  if (mapped() || size_ == 0) return absl::OkStatus();
  return pool_.MapSlab(*this);
}

absl::Status Slab::Grow(uint64_t size) {
  if (size <= size_) return absl::OkStatus();
  return pool_.GrowSlab(*this, SlabBytes(size));
}

SlabPool::SlabPool(SlabPoolOptions options, const Clock& clock)
    : options_{SlabBytes(options.limit), options.trim_after}, clock_(clock) {}

SlabPool::~SlabPool() {
  for (const auto& [size, mapping] : idle_) Unmap(mapping);
}

std::unique_ptr<Slab> SlabPool::TryPromise(uint64_t size) {
  if (size > options_.limit) return nullptr;
  const uint64_t bytes = SlabBytes(size);
  MutexLock lock(mu_);
  const SlabMapping idle = ClaimIdle(bytes);
  if (idle.data == nullptr && !HasRoom(bytes)) return nullptr;
  std::unique_ptr<Slab> slab(new Slab(*this, std::max(bytes, idle.size), idle));
  AddPromised(slab->size_);
  return slab;
}

std::unique_ptr<Slab> SlabPool::Promise(uint64_t size) {
  while (true) {
    std::unique_ptr<Slab> slab = TryPromise(size);
    if (slab != nullptr || size > options_.limit || !Reclaim(SlabBytes(size))) return slab;
  }
}

void SlabPool::Trim() {
  MutexLock lock(mu_);
  const auto oldest = OldestIdle();
  if (oldest == idle_.end() || oldest->second.idle_since >= clock_.Now() - options_.trim_after)
    return;
  GiveUp(oldest, kGiveUpStep);
}

SlabPool::Usage SlabPool::usage() const {
  MutexLock lock(mu_);
  return {promised_bytes_, idle_bytes_, peak_};
}

absl::Status SlabPool::MapSlab(Slab& slab) {
  if (slab.mapping_.data != nullptr) return Extend(slab.mapping_, slab.size_);
  {
    MutexLock lock(mu_);
    const auto fit = idle_.lower_bound(slab.size_);
    if (fit != idle_.end() && fit->first <= MostFor(slab.size_)) {
      slab.mapping_ = TakeIdle(fit);
      AddPromised(slab.mapping_.size - slab.size_);
      slab.size_ = slab.mapping_.size;
      return absl::OkStatus();
    }
  }
  absl::StatusOr<SlabMapping> mapping = NewMapping(slab.size_);
  if (mapping.ok()) slab.mapping_ = *mapping;
  return mapping.status();
}

absl::Status SlabPool::GrowSlab(Slab& slab, uint64_t size) {
  const uint64_t more = size - slab.size_;
  while (true) {
    {
      MutexLock lock(mu_);
      if (HasRoom(more)) {
        AddPromised(more);
        break;
      }
    }
    if (Reclaim(more)) continue;
    return absl::ResourceExhaustedError(absl::StrCat("the server's memory (", options_.limit,
                                                     " bytes) is in use; try again later"));
  }
  const absl::Status status =
      slab.mapping_.data == nullptr ? absl::OkStatus() : Extend(slab.mapping_, size);
  if (status.ok()) {
    slab.size_ = size;
  } else {
    MutexLock lock(mu_);
    promised_bytes_ -= more;
  }
  return status;
}

void SlabPool::Return(Slab& slab) {
  {
    MutexLock lock(mu_);
    promised_bytes_ -= slab.size_;
    if (slab.mapping_.data != nullptr) {
      slab.mapping_.idle_since = clock_.Now();
      idle_bytes_ += slab.mapping_.size;
      idle_.emplace(slab.mapping_.size, slab.mapping_);
    }
  }
  if (on_release_) on_release_();
}

bool SlabPool::Reclaim(uint64_t size) {
  MutexLock lock(mu_);
  while (!HasRoom(size)) {
    const auto oldest = OldestIdle();
    if (oldest == idle_.end()) return false;
    GiveUp(oldest, std::max(size, kGiveUpStep));
  }
  return true;
}

void SlabPool::GiveUp(Idle::iterator it, uint64_t size) {
  SlabMapping mapping = it->second;
  idle_.erase(it);
  const uint64_t before = mapping.size;
  const bool whole = before <= 2 * size;
  mu_.Unlock();
  if (whole) {
    Unmap(mapping);
    if (on_give_up_) on_give_up_(mapping.id);
  } else {
    Shrink(mapping, before - RoundUp(size, kHugePage));
  }
  mu_.Lock();
  idle_bytes_ -= whole ? before : before - mapping.size;
  if (!whole) idle_.emplace(mapping.size, mapping);
}

SlabMapping SlabPool::ClaimIdle(uint64_t size) {
  if (size == 0 || idle_.empty()) return {};
  const auto fit = idle_.lower_bound(size);
  if (fit != idle_.end()) return fit->first <= MostFor(size) ? TakeIdle(fit) : SlabMapping();
  const auto largest = std::prev(idle_.end());
  const bool near = largest->first >= size / 2 && size >= kHugePage;
  return near && HasRoom(size - largest->first) ? TakeIdle(largest) : SlabMapping();
}

SlabMapping SlabPool::TakeIdle(Idle::iterator it) {
  const SlabMapping mapping = it->second;
  idle_bytes_ -= mapping.size;
  idle_.erase(it);
  return mapping;
}

SlabPool::Idle::iterator SlabPool::OldestIdle() {
  return std::min_element(idle_.begin(), idle_.end(), [](const auto& a, const auto& b) {
    return a.second.idle_since < b.second.idle_since;
  });
}

bool SlabPool::HasRoom(uint64_t size) const {
  return promised_bytes_ + idle_bytes_ + size <= options_.limit;
}

void SlabPool::AddPromised(uint64_t size) {
  promised_bytes_ += size;
  peak_ = std::max(peak_, promised_bytes_ + idle_bytes_);
}

}  // namespace millrace
