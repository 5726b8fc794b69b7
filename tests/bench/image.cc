#include "tests/bench/image.h"

#include <absl/strings/str_cat.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <utility>
#include <vector>

namespace millrace::bench {
namespace {

constexpr uint64_t kLargestWhole = 1 << 30;
constexpr uint64_t kPeriod = 64 << 20;

// `size` bytes of address space, backed by `period` bytes of memory over and over.
std::byte* MapRepeated(uint64_t size, uint64_t period) {
  const int fd = ::memfd_create("image", MFD_CLOEXEC);
  if (fd < 0 || ::ftruncate(fd, period) != 0) std::abort();
  void* const memory =
      ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  std::byte* const begin = static_cast<std::byte*>(memory);
  for (uint64_t offset = 0; offset < size; offset += period) {
    const uint64_t length = std::min(period, size - offset);
    void* const mapped =
        ::mmap(begin + offset, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (mapped == MAP_FAILED) std::abort();
  }
  ::close(fd);
  return begin;
}

// By the definition, and not by the code that is measured.
float RowMeanStd(const float* values, size_t rows, size_t columns) {
  std::vector<double> means(rows);
  double mean = 0;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t i = 0; i < columns; ++i) means[row] += values[row * columns + i];
    means[row] /= static_cast<double>(columns);
    mean += means[row] / static_cast<double>(rows);
  }
  double variance = 0;
  for (const double m : means) variance += (m - mean) * (m - mean) / static_cast<double>(rows);
  return static_cast<float>(std::sqrt(variance));
}

}  // namespace

Shape ImageShape(uint64_t bytes) {
  if (bytes == sizeof(float)) return {1};
  const int64_t elements = static_cast<int64_t>(bytes / sizeof(float));
  const int64_t columns = elements % 2500 == 0 ? 2500 : 32768;
  return {elements / columns, columns};
}

Image::Image(uint64_t bytes) : size_(bytes), meta_{"image", DType::kFloat32, ImageShape(bytes)} {
  const uint64_t period = bytes <= kLargestWhole ? bytes : kPeriod;
  memory_ = MapRepeated(bytes, period);
  float* const values = reinterpret_cast<float*>(memory_);
  const size_t count = period / sizeof(float);
  for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(static_cast<double>(i) / count);
  const size_t columns = meta_.shape.back();
  answer_ = count == 1 ? 0 : RowMeanStd(values, count / columns, columns);
}

Image::~Image() {
  if (memory_ != nullptr) ::munmap(memory_, size_);
}

Image::Image(Image&& other) noexcept
    : size_(other.size_),
      meta_(std::move(other.meta_)),
      memory_(std::exchange(other.memory_, nullptr)),
      answer_(other.answer_) {}

absl::Status CheckAnswer(const Image& image, float answer) {
  if (std::abs(answer - image.answer()) <= 1e-6f) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("the answer is ", answer, " and not ", image.answer()));
}

}  // namespace millrace::bench
