#include "server/core/slab_pool.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

namespace millrace {
namespace {

constexpr uint64_t kGranule = 64 << 10;
constexpr uint64_t kHugePage = 2 << 20;

// Idle memory of up to this many times the need is taken rather than new memory mapped.
constexpr uint64_t kMaxSlack = 4;
constexpr uint64_t kSmall = 1 << 20;

uint64_t RoundUp(uint64_t size, uint64_t unit) { return (size + unit - 1) / unit * unit; }

uint64_t SlabBytes(uint64_t size) { return RoundUp(size, size < kHugePage ? kGranule : kHugePage); }

absl::Status SystemError(absl::string_view what) {
  return absl::ResourceExhaustedError(absl::StrCat(what, ": ", strerror(errno)));
}

// Maps the whole memfd at a multiple of kHugePage, so that the kernel may back it with huge pages; null on failure.
std::byte* MapAligned(int fd, uint64_t size) {
  const uint64_t span = size + kHugePage;
  void* reserved = mmap(nullptr, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return nullptr;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(reserved);
  const uintptr_t start = RoundUp(begin, kHugePage);
  void* data = mmap(reinterpret_cast<void*>(start), size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (data == MAP_FAILED) {
    munmap(reserved, span);
    return nullptr;
  }
  if (start > begin) munmap(reserved, start - begin);
  munmap(reinterpret_cast<void*>(start + size), begin + span - (start + size));
  madvise(data, size, MADV_HUGEPAGE);
  return static_cast<std::byte*>(data);
}

absl::StatusOr<SlabMapping> NewMapping(uint64_t size) {
  SlabMapping mapping;
  mapping.size = size;
  mapping.fd = memfd_create("millrace-slab", MFD_CLOEXEC);
  if (mapping.fd < 0) return SystemError("no descriptor for the tensor's memory");
  if (ftruncate(mapping.fd, static_cast<off_t>(size)) == 0) mapping.data = MapAligned(mapping.fd, size);
  if (mapping.data == nullptr) {
    const absl::Status status = SystemError("no memory for the tensor");
    close(mapping.fd);
    return status;
  }
  return mapping;
}

void Unmap(const SlabMapping& mapping) {
  munmap(mapping.data, mapping.size);
  close(mapping.fd);
}

absl::Status Extend(SlabMapping& mapping, uint64_t size) {
  if (ftruncate(mapping.fd, static_cast<off_t>(size)) != 0) return SystemError("no memory for the tensor");
  std::byte* const data = MapAligned(mapping.fd, size);
  if (data == nullptr) return SystemError("no address space for the tensor");
  munmap(mapping.data, mapping.size);
  mapping.data = data;
  mapping.size = size;
  return absl::OkStatus();
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

std::unique_ptr<Slab> SlabPool::Promise(uint64_t size) {
  if (size > options_.limit) return nullptr;
  const uint64_t bytes = SlabBytes(size);
  std::vector<SlabMapping> evicted;
  std::unique_ptr<Slab> slab;
  {
    MutexLock lock(mu_);
    SlabMapping idle = ClaimIdle(bytes);
    if (idle.data == nullptr && !MakeRoom(bytes, evicted)) return nullptr;
    slab.reset(new Slab(*this, idle.data != nullptr ? idle.size : bytes));
    slab->mapping_ = idle;
    promised_bytes_ += slab->size_;
    NotePeak();
  }
  for (const SlabMapping& mapping : evicted) Unmap(mapping);
  return slab;
}

void SlabPool::Trim() {
  const absl::Time limit = clock_.Now() - options_.trim_after;
  std::vector<SlabMapping> old;
  {
    MutexLock lock(mu_);
    for (auto it = idle_.begin(); it != idle_.end();) {
      it = it->second.idle_since < limit ? Evict(it, old) : std::next(it);
    }
  }
  for (const SlabMapping& mapping : old) Unmap(mapping);
}

SlabPool::Usage SlabPool::usage() const {
  MutexLock lock(mu_);
  return {promised_bytes_, idle_bytes_, peak_};
}

absl::Status SlabPool::MapSlab(Slab& slab) {
  {
    MutexLock lock(mu_);
    if (const SlabMapping idle = ClaimIdle(slab.size_); idle.data != nullptr) {
      promised_bytes_ += idle.size - slab.size_;
      slab.size_ = idle.size;
      slab.mapping_ = idle;
      return absl::OkStatus();
    }
  }
  absl::StatusOr<SlabMapping> mapping = NewMapping(slab.size_);
  if (mapping.ok()) slab.mapping_ = *mapping;
  return mapping.status();
}

absl::Status SlabPool::GrowSlab(Slab& slab, uint64_t size) {
  std::vector<SlabMapping> evicted;
  const uint64_t more = size - slab.size_;
  bool room = false;
  {
    MutexLock lock(mu_);
    room = MakeRoom(more, evicted);
    if (room) promised_bytes_ += more;
    NotePeak();
  }
  for (const SlabMapping& mapping : evicted) Unmap(mapping);
  if (!room) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the server's memory (", options_.limit, " bytes) is in use; try again later"));
  }
  const absl::Status status = slab.mapped() ? Extend(slab.mapping_, size) : absl::OkStatus();
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
    if (slab.mapped()) {
      slab.mapping_.idle_since = clock_.Now();
      idle_bytes_ += slab.mapping_.size;
      idle_.emplace(slab.mapping_.size, slab.mapping_);
    }
  }
  if (on_release_) on_release_();
}

SlabMapping SlabPool::ClaimIdle(uint64_t size) {
  if (size == 0) return {};
  const auto it = idle_.lower_bound(size);
  if (it == idle_.end() || it->first > kMaxSlack * std::max(size, kSmall)) return {};
  const SlabMapping mapping = it->second;
  idle_bytes_ -= mapping.size;
  idle_.erase(it);
  return mapping;
}

bool SlabPool::MakeRoom(uint64_t size, std::vector<SlabMapping>& evicted) {
  if (promised_bytes_ + size > options_.limit) return false;
  while (promised_bytes_ + idle_bytes_ + size > options_.limit) {
    const auto oldest = std::min_element(idle_.begin(), idle_.end(), [](const auto& a, const auto& b) {
      return a.second.idle_since < b.second.idle_since;
    });
    Evict(oldest, evicted);
  }
  return true;
}

SlabPool::Idle::iterator SlabPool::Evict(Idle::iterator it, std::vector<SlabMapping>& evicted) {
  evicted.push_back(it->second);
  idle_bytes_ -= it->first;
  return idle_.erase(it);
}

void SlabPool::NotePeak() { peak_ = std::max(peak_, promised_bytes_ + idle_bytes_); }

}  // namespace millrace
