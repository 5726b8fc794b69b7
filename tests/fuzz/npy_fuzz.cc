// Any bytes are a header or an error, and what is a header can be written and read again.
#include <cstdint>
#include <cstdlib>

#include "proto/wire/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<size_t> header_size = millrace::NpyHeaderSize(bytes);
  if (!header_size.ok() || *header_size > size) return 0;
  const absl::StatusOr<millrace::TensorMeta> meta =
      millrace::ParseNpyHeader(bytes.substr(0, *header_size));
  if (!meta.ok()) return 0;
  if (!millrace::ByteSize(meta->dtype, meta->shape).ok()) std::abort();
  const absl::StatusOr<millrace::TensorMeta> again =
      millrace::ParseNpyHeader(millrace::NpyHeader(*meta));
  if (!again.ok() || *again != *meta) std::abort();
  return 0;
}
