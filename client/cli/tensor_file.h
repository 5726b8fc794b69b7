// Tensors in files.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <cstddef>
#include <string>
#include <utility>

#include "proto/wire/tensor.h"

namespace millrace {

// A file's bytes, mapped into memory.  Movable.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile();

  // Valid as long as this, or what it was moved to.  Whoever truncates the file meanwhile kills the
  // reader.
  absl::Span<const std::byte> bytes() const { return bytes_; }

 private:
  explicit MappedFile(absl::Span<const std::byte> bytes) : bytes_(bytes) {}

  absl::Span<const std::byte> bytes_;
};

struct TensorFile {
  MappedFile file;
  TensorView tensor;  // in the file
};

// A .npy file.
absl::StatusOr<TensorFile> OpenNpy(const std::string& path);

// A file of nothing but the elements of `meta`.
absl::StatusOr<TensorFile> OpenRaw(const std::string& path, const TensorMeta& meta);

// Writes a .npy file, over one that is there.
absl::Status WriteNpy(const std::string& path, const TensorView& tensor);

}  // namespace millrace
