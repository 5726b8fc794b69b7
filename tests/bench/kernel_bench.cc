// How close the row sums come to only reading the image, and what the whole model costs.
//
//   cmake --build --preset release -t kernel_bench && build/release/bin/kernel_bench
//
// One image that fits the last cache is read from there; a ring of images comes from memory.
#include <benchmark/benchmark.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "server/core/model.h"
#include "server/models/row_mean_std.h"
#include "server/models/row_sums.h"

namespace millrace {
namespace {

constexpr size_t kRows = 3000;
constexpr size_t kColumns = 2500;
constexpr size_t kElements = kRows * kColumns;
constexpr size_t kBytes = kElements * sizeof(float);

// Images one after another in shared memory of small pages, as in a slab.
class Ring {
 public:
  explicit Ring(size_t images)
      : images_(images),
        memory_(::mmap(nullptr, images * kBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                       -1, 0)) {
    if (memory_ == MAP_FAILED) std::abort();
    float* const values = static_cast<float*>(memory_);
    for (size_t i = 0; i < images * kElements; ++i) {
      values[i] = static_cast<float>(i % kElements) / kElements;
    }
  }
  ~Ring() { ::munmap(memory_, images_ * kBytes); }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  const float* Next() {
    return static_cast<const float*>(memory_) + (next_++ % images_) * kElements;
  }

 private:
  const size_t images_;
  void* const memory_;
  size_t next_ = 0;
};

// The least that reading can cost: vectors as wide as the machine has them, no arithmetic to speak
// of.
#ifdef __x86_64__
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t
SumOfWords(const float* values) {
  typedef uint64_t Words __attribute__((vector_size(64)));
  Words sums[4] = {};
  const char* p = reinterpret_cast<const char*>(values);
  for (size_t i = 0; i + sizeof(sums) <= kBytes; i += sizeof(sums)) {
    for (size_t k = 0; k < 4; ++k) {
      Words words;
      std::memcpy(&words, p + i + k * sizeof(words), sizeof(words));
      sums[k] += words;
    }
  }
  const Words sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  uint64_t total = 0;
  for (size_t k = 0; k < 8; ++k) total += sum[k];
  return total;
}

void Report(benchmark::State& state) {
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * kBytes));
}

void BM_Read(benchmark::State& state) {
  Ring ring(state.range(0));
  for (auto _ : state) benchmark::DoNotOptimize(SumOfWords(ring.Next()));
  Report(state);
}

template <void (*RowSums)(const float*, size_t, size_t, double*)>
void BM_RowSums(benchmark::State& state) {
  Ring ring(state.range(0));
  std::vector<double> sums(kRows);
  for (auto _ : state) {
    RowSums(ring.Next(), kRows, kColumns, sums.data());
    benchmark::DoNotOptimize(sums.data());
    benchmark::ClobberMemory();
  }
  Report(state);
}

void BM_RowMeanStd(benchmark::State& state) {
  Ring ring(state.range(0));
  const auto model = MakeRowMeanStd();
  SlabPool pool({});
  Request request;
  request.inputs.resize(1);
  request.inputs[0].meta = {"image", DType::kFloat32, {kRows, kColumns}};
  for (auto _ : state) {
    request.inputs[0].bytes = {reinterpret_cast<const std::byte*>(ring.Next()), kBytes};
    Outputs outputs(pool);
    if (!model->Run(request, outputs).ok()) state.SkipWithError("the model failed");
    benchmark::DoNotOptimize(std::move(outputs).Take());
  }
  Report(state);
}

void Images(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgName("images")->Arg(1)->Arg(4)->Unit(benchmark::kMicrosecond)->UseRealTime();
}

BENCHMARK(BM_Read)->Apply(Images);
BENCHMARK_TEMPLATE(BM_RowSums, RowSums)->Apply(Images);
BENCHMARK_TEMPLATE(BM_RowSums, internal::RowSumsPortable)->Apply(Images);
#ifdef __x86_64__
BENCHMARK_TEMPLATE(BM_RowSums, internal::RowSumsSse2)->Apply(Images);
#endif
BENCHMARK(BM_RowMeanStd)->Apply(Images);

}  // namespace
}  // namespace millrace
