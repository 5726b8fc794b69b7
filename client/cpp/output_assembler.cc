#include "client/cpp/output_assembler.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

namespace millrace::internal {

absl::Status BrokenAnswer(absl::string_view what) {
  return absl::InternalError(absl::StrCat("the server's answer is broken: ", what,
                                          "; is it a Millrace server of this version?"));
}

absl::Status OutputAssembler::Declare(std::vector<TensorMeta> metas) {
  for (TensorMeta& meta : metas) {
    const absl::StatusOr<uint64_t> size = ByteSize(meta.dtype, meta.shape);
    if (!size.ok()) return BrokenAnswer(size.status().message());
    std::unique_ptr<std::byte[]> data(new (std::nothrow) std::byte[*size]);
    if (data == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for the output ", ToString(meta), " of ", *size, " bytes"));
    }
    outputs_.push_back({std::move(meta), std::move(data), *size});
  }
  return absl::OkStatus();
}

absl::Status OutputAssembler::Append(absl::Span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const absl::Span<std::byte> room = Room();
    if (room.empty()) return BrokenAnswer("more bytes than its header says");
    const size_t size = std::min(room.size(), bytes.size());
    std::memcpy(room.data(), bytes.data(), size);
    Advance(size);
    bytes.remove_prefix(size);
  }
  return absl::OkStatus();
}

absl::Span<std::byte> OutputAssembler::Room() {
  while (current_ < outputs_.size() && filled_ == outputs_[current_].size) {
    ++current_;
    filled_ = 0;
  }
  if (current_ == outputs_.size()) return {};
  OutputTensor& output = outputs_[current_];
  return {output.data.get() + filled_, output.size - filled_};
}

void OutputAssembler::Advance(size_t size) { filled_ += size; }

absl::StatusOr<std::vector<OutputTensor>> OutputAssembler::Take() {
  if (!Room().empty()) return BrokenAnswer("fewer bytes than its header says");
  return std::move(outputs_);
}

}  // namespace millrace::internal
