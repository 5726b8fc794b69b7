#include "server/core/slab_pool.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <thread>
#include <vector>

#include "tests/fakes/manual_clock.h"

namespace millrace {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class SlabPoolTest : public testing::Test {
 protected:
  std::unique_ptr<Slab> Mapped(uint64_t size) {
    std::unique_ptr<Slab> slab = pool_.Promise(size);
    EXPECT_NE(slab, nullptr);
    EXPECT_TRUE(slab->Map().ok());
    return slab;
  }

  ManualClock clock_;
  SlabPool pool_{{.limit = 64 * kMiB, .trim_after = absl::Seconds(30)}, clock_};
};

// Pages of the slab that the kernel has given memory to.
size_t CommittedPages(const Slab& slab) {
  struct stat info = {};
  fstat(slab.fd(), &info);
  return static_cast<size_t>(info.st_blocks) * 512 / 4096;
}

TEST_F(SlabPoolTest, PromisesUpToItsLimitAndNoMore) {
  const auto first = pool_.Promise(40 * kMiB);
  EXPECT_NE(first, nullptr);
  EXPECT_EQ(pool_.Promise(40 * kMiB), nullptr);
  EXPECT_NE(pool_.Promise(24 * kMiB), nullptr);
}

TEST_F(SlabPoolTest, NeverPromisesMoreThanTheLimitAtOnce) {
  EXPECT_EQ(pool_.Promise(65 * kMiB), nullptr);
  EXPECT_EQ(pool_.Promise(UINT64_MAX), nullptr);
}

TEST_F(SlabPoolTest, APromiseMapsNothing) {
  const auto slab = pool_.Promise(40 * kMiB);
  EXPECT_FALSE(slab->mapped());
}

TEST_F(SlabPoolTest, CommitsOnlyWhatIsWritten) {
  const auto slab = Mapped(40 * kMiB);
  EXPECT_EQ(CommittedPages(*slab), 0u);
  slab->data()[0] = std::byte{1};
  EXPECT_GE(CommittedPages(*slab), 1u);
  EXPECT_LE(CommittedPages(*slab), 512u);
}

TEST_F(SlabPoolTest, MemoryIsPageAlignedAndWritable) {
  const auto slab = Mapped(100'000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(slab->data()) % 4096, 0u);
  std::memset(slab->data(), 7, slab->size());
}

TEST_F(SlabPoolTest, RecyclesMemoryWithoutUnmapping) {
  auto slab = Mapped(30 * kMiB);
  const std::byte* const before = slab->data();
  slab->data()[12345] = std::byte{42};
  slab.reset();
  slab = Mapped(30 * kMiB);
  EXPECT_EQ(slab->data(), before);
  EXPECT_EQ(slab->data()[12345], std::byte{42});
}

TEST_F(SlabPoolTest, ASmallRequestDoesNotTakeLargeMemory) {
  Mapped(30 * kMiB).reset();
  const auto small = Mapped(4);
  EXPECT_LE(small->size(), 4 * kMiB);
}

TEST_F(SlabPoolTest, GivesUpIdleMemoryWhenThePromiseNeedsIt) {
  Mapped(8 * kMiB).reset();
  const auto large = Mapped(40 * kMiB);
  EXPECT_EQ(pool_.TryPromise(20 * kMiB), nullptr);
  EXPECT_NE(pool_.Promise(20 * kMiB), nullptr);
  EXPECT_EQ(pool_.usage().idle, 0u);
}

TEST_F(SlabPoolTest, GivesUpNoMoreOfALargeSlabThanItMust) {
  SlabPool pool({.limit = 512 * kMiB}, clock_);
  {
    const auto slab = pool.Promise(512 * kMiB);
    ASSERT_TRUE(slab->Map().ok());
    slab->data()[7] = std::byte{7};
  }
  EXPECT_NE(pool.Promise(4), nullptr);
  EXPECT_EQ(pool.usage().idle, 448 * kMiB);
}

TEST_F(SlabPoolTest, MakesIdleMemoryLargerRatherThanLosingIt) {
  auto slab = Mapped(40 * kMiB);
  slab->data()[7] = std::byte{7};
  slab.reset();
  slab = pool_.TryPromise(64 * kMiB);
  ASSERT_NE(slab, nullptr);
  EXPECT_FALSE(slab->mapped());
  ASSERT_TRUE(slab->Map().ok());
  EXPECT_EQ(slab->data()[7], std::byte{7});
  slab->data()[64 * kMiB - 1] = std::byte{1};
}

TEST_F(SlabPoolTest, NeverHoldsMoreThanItsLimit) {
  for (uint64_t size = kMiB; size < 60 * kMiB; size += 7 * kMiB) Mapped(size).reset();
  EXPECT_LE(pool_.usage().idle, 64 * kMiB);
  EXPECT_LE(pool_.usage().peak, 64 * kMiB);
}

TEST_F(SlabPoolTest, TrimsWhatIsIdleForLong) {
  Mapped(30 * kMiB).reset();
  clock_.Advance(absl::Seconds(29));
  pool_.Trim();
  EXPECT_EQ(pool_.usage().idle, 30 * kMiB);
  clock_.Advance(absl::Seconds(2));
  pool_.Trim();
  EXPECT_EQ(pool_.usage().idle, 0u);
}

TEST_F(SlabPoolTest, GrowingKeepsTheContents) {
  const auto slab = Mapped(kMiB);
  slab->data()[777] = std::byte{9};
  ASSERT_TRUE(slab->Grow(20 * kMiB).ok());
  EXPECT_GE(slab->size(), 20 * kMiB);
  EXPECT_EQ(slab->data()[777], std::byte{9});
  slab->data()[20 * kMiB - 1] = std::byte{1};
}

TEST_F(SlabPoolTest, GrowingBeyondTheLimitFailsAndChangesNothing) {
  const auto slab = Mapped(kMiB);
  const uint64_t size = slab->size();
  EXPECT_EQ(slab->Grow(100 * kMiB).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(slab->size(), size);
  EXPECT_EQ(pool_.usage().promised, size);
}

TEST_F(SlabPoolTest, AnotherProcessCouldMapTheSameBytes) {
  const auto slab = Mapped(kMiB);
  slab->data()[5] = std::byte{55};
  void* const other = mmap(nullptr, kMiB, PROT_READ, MAP_SHARED, slab->fd(), 0);
  ASSERT_NE(other, MAP_FAILED);
  EXPECT_EQ(static_cast<const std::byte*>(other)[5], std::byte{55});
  munmap(other, kMiB);
}

TEST_F(SlabPoolTest, MemoryIsKnownByItsIdUntilItIsGivenUp) {
  std::vector<uint64_t> gone;
  pool_.SetOnGiveUp([&](uint64_t id) { gone.push_back(id); });
  const uint64_t id = Mapped(3 * kMiB)->memory_id();
  EXPECT_EQ(Mapped(3 * kMiB)->memory_id(), id);
  EXPECT_TRUE(gone.empty());
  clock_.Advance(absl::Seconds(31));
  pool_.Trim();
  EXPECT_EQ(gone, std::vector<uint64_t>{id});
  EXPECT_NE(Mapped(3 * kMiB)->memory_id(), id);
}

TEST_F(SlabPoolTest, PagesThatAreGivenUpAreFreeThoughAnotherProcessMapsThem) {
  auto slab = Mapped(3 * kMiB);
  slab->data()[0] = std::byte{1};
  const int theirs = dup(slab->fd());
  slab = nullptr;
  clock_.Advance(absl::Seconds(31));
  pool_.Trim();
  struct stat info = {};
  fstat(theirs, &info);
  EXPECT_EQ(info.st_blocks, 0);
  close(theirs);
}

TEST_F(SlabPoolTest, TellsWhenBytesComeBack) {
  SlabPool pool({.limit = kMiB}, clock_);
  int returned = 0;
  pool.SetOnRelease([&] { ++returned; });
  pool.Promise(1000).reset();
  EXPECT_EQ(returned, 1);
}

TEST_F(SlabPoolTest, ManyThreadsLeaveNothingBehind) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([this, t] {
      for (int i = 0; i < 300; ++i) {
        const auto slab =
            pool_.Promise(static_cast<uint64_t>(1 + (i * 7919 + t * 104729) % (20 * kMiB)));
        if (slab == nullptr || !slab->Map().ok()) continue;
        slab->data()[slab->size() - 1] = std::byte{1};
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(pool_.usage().promised, 0u);
  EXPECT_LE(pool_.usage().peak, pool_.limit());
}

}  // namespace
}  // namespace millrace
