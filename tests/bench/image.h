// What every client of the benchmark sends, and the answer to it.
#pragma once

#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>

#include "proto/wire/tensor.h"

namespace millrace::bench {

// The shape of an image of so many bytes: one value, or rows of 2500, or of 32768 where that does
// not divide it.
Shape ImageShape(uint64_t bytes);

// An image with value i / N at flat index i.  Beyond 1 GiB the same 64 MiB of memory stand behind
// it again and again.
class Image {
 public:
  explicit Image(uint64_t bytes);
  ~Image();
  Image(Image&& other) noexcept;
  Image& operator=(Image&&) = delete;

  // Valid as long as this.
  TensorView view() const { return {meta_, {memory_, size_}}; }

  // What row_mean_std must answer.
  float answer() const { return answer_; }

 private:
  size_t size_;
  TensorMeta meta_;
  std::byte* memory_;
  float answer_;
};

// INTERNAL unless the answer is the image's.
absl::Status CheckAnswer(const Image& image, float answer);

}  // namespace millrace::bench
