// Any bytes are a message of a worker or an error, and outputs with bytes have as many as they say.
#include <cstdint>
#include <cstdlib>

#include "server/workers/message.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  (void)millrace::ParseHello(bytes);
  const absl::StatusOr<millrace::Reply> reply = millrace::ParseReply(bytes);
  if (!reply.ok()) return 0;
  uint64_t sum = 0;
  for (const millrace::TensorMeta& output : reply->outputs) {
    const absl::StatusOr<uint64_t> output_size = ByteSize(output.dtype, output.shape);
    if (!output_size.ok()) std::abort();
    sum += *output_size;
  }
  if (reply->kind == millrace::Reply::Kind::kOutputs && sum != reply->bytes.size()) std::abort();
  return 0;
}
