#include "server/core/assembler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "server/core/errors.h"

namespace millrace {
namespace {

constexpr uint64_t kMiB = 1 << 20;

class AssemblerTest : public testing::Test {
 protected:
  Assembler For(std::vector<TensorMeta> tensors) {
    const uint64_t size = Assembler::SlabSize(tensors).value();
    return Assembler(pool_.Promise(size), std::move(tensors));
  }

  // Feeds `bytes` in pieces of `piece` bytes.
  static absl::Status Feed(Assembler& assembler, absl::string_view bytes, size_t piece) {
    while (!bytes.empty()) {
      absl::string_view now = bytes.substr(0, piece);
      bytes.remove_prefix(now.size());
      while (!now.empty()) {
        const auto space = assembler.Space();
        if (!space.ok()) return space.status();
        const size_t size = std::min(now.size(), space->size());
        std::memcpy(space->data(), now.data(), size);
        assembler.Commit(size);
        now.remove_prefix(size);
      }
    }
    return absl::OkStatus();
  }

  static std::string Bytes(const Tensor& tensor) {
    return std::string(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }

  SlabPool pool_{{.limit = 64 * kMiB}};
};

TEST_F(AssemblerTest, TellsAtEachStepWhatIsHereButNotWhenAllIs) {
  Assembler assembler = For({{"a", DType::kUint8, {10}}});
  std::vector<std::string> told;
  assembler.Watch(3, [&told](absl::Span<const std::byte> bytes) {
    told.emplace_back(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  });
  ASSERT_TRUE(Feed(assembler, "0123456789", 2).ok());
  EXPECT_EQ(told, (std::vector<std::string>{"0123", "01234567"}));
}

TEST_F(AssemblerTest, CutsPiecesAtTensorsWhereverTheyWereCut) {
  const std::string payload = "abcdefghijklmnopqrstuvwxyz";
  for (size_t piece = 1; piece <= payload.size(); ++piece) {
    Assembler assembler =
        For({{"a", DType::kInt16, {5}}, {"b", DType::kUint8, {3}}, {"c", DType::kUint8, {13}}});
    ASSERT_TRUE(Feed(assembler, payload, piece).ok());
    ASSERT_EQ(assembler.remaining(), 0u);
    const auto tensors = assembler.TakeTensors().value();
    EXPECT_EQ(Bytes(tensors[0]), "abcdefghij");
    EXPECT_EQ(Bytes(tensors[1]), "klm");
    EXPECT_EQ(Bytes(tensors[2]), "nopqrstuvwxyz");
  }
}

TEST_F(AssemblerTest, EveryTensorIsAlignedAndSharesOneSlab) {
  Assembler assembler = For({{"a", DType::kUint8, {3}}, {"b", DType::kFloat64, {1}}});
  ASSERT_TRUE(Feed(assembler, std::string(11, 'x'), 4).ok());
  const auto tensors = assembler.TakeTensors().value();
  for (const Tensor& tensor : tensors)
    EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.bytes.data()) % 64, 0u);
  EXPECT_EQ(tensors[0].owner, tensors[1].owner);
}

TEST_F(AssemblerTest, EmptyTensorsNeedNoBytes) {
  Assembler assembler =
      For({{"a", DType::kFloat32, {0, 7}}, {"b", DType::kUint8, {2}}, {"c", DType::kFloat32, {0}}});
  EXPECT_EQ(assembler.remaining(), 2u);
  ASSERT_TRUE(Feed(assembler, "xy", 1).ok());
  const auto tensors = assembler.TakeTensors().value();
  EXPECT_TRUE(tensors[0].bytes.empty());
  EXPECT_EQ(Bytes(tensors[1]), "xy");
  EXPECT_TRUE(tensors[2].bytes.empty());
}

TEST_F(AssemblerTest, RefusesBytesBeyondTheLast) {
  Assembler assembler = For({{"a", DType::kUint8, {2}}});
  EXPECT_FALSE(Feed(assembler, "xyz", 3).ok());
}

TEST_F(AssemblerTest, TensorsCannotBeTakenTooEarly) {
  Assembler assembler = For({{"a", DType::kUint8, {2}}});
  ASSERT_TRUE(Feed(assembler, "x", 1).ok());
  EXPECT_FALSE(assembler.TakeTensors().ok());
}

TEST_F(AssemblerTest, UnknownTensorsGrowAsBytesCome) {
  Assembler assembler(pool_.Promise(0), 20 * kMiB);
  std::string payload(10 * kMiB, '\0');
  for (size_t i = 0; i < payload.size(); ++i) payload[i] = static_cast<char>(i * 2654435761u >> 24);
  ASSERT_TRUE(Feed(assembler, payload, 100'000).ok());
  EXPECT_TRUE(Bytes(assembler.TakeBytes().value()) == payload);
}

TEST_F(AssemblerTest, UnknownTensorsStopAtTheirLimit) {
  Assembler assembler(pool_.Promise(0), 1000);
  EXPECT_TRUE(Feed(assembler, std::string(1000, 'x'), 100).ok());
  EXPECT_TRUE(IsTooLarge(Feed(assembler, "x", 1)));
}

TEST_F(AssemblerTest, UnknownTensorsStopAtTheBudget) {
  const auto rest = pool_.Promise(60 * kMiB);
  Assembler assembler(pool_.Promise(0), 50 * kMiB);
  EXPECT_EQ(Feed(assembler, std::string(10 * kMiB, 'x'), kMiB).code(),
            absl::StatusCode::kResourceExhausted);
}

TEST_F(AssemblerTest, NoBytesAtAllAreAnEmptyTensor) {
  Assembler assembler(pool_.Promise(0), 1000);
  EXPECT_TRUE(assembler.TakeBytes().value().bytes.empty());
}

TEST(SlabSizeTest, RefusesSumsThatOverflow) {
  const TensorMeta huge{"x", DType::kUint8, {INT64_MAX}};
  EXPECT_FALSE(Assembler::SlabSize({huge, huge}).ok());
  EXPECT_FALSE(Assembler::SlabSize({{"x", DType::kFloat32, {INT64_MAX}}}).ok());
  EXPECT_FALSE(Assembler::SlabSize({{"x", DType::kFloat32, {-1}}}).ok());
}

}  // namespace
}  // namespace millrace
