// A header, then a chunked body in pieces: whatever the cut, the chunk reader takes and finds the
// same.
#include <algorithm>
#include <cstdlib>
#include <string>

#include "server/transports/http/chunk_reader.h"
#include "server/transports/http/request_head.h"
#include "server/transports/http/router.h"

namespace millrace {
namespace {

// The data of a body that comes in pieces of `piece` bytes, and whether it was whole or broken.
std::string ReadChunks(absl::string_view body, size_t piece) {
  ChunkReader reader;
  std::string data;
  while (!body.empty() && !reader.done()) {
    absl::string_view bytes = body.substr(0, piece);
    const auto framing = reader.ReadFraming(bytes);
    if (!framing.ok()) return data + "|broken";
    bytes.remove_prefix(*framing);
    const size_t taken = std::min<uint64_t>(bytes.size(), reader.data_left());
    data.append(bytes.data(), taken);
    if (taken > 0) reader.TakeData(taken);
    body.remove_prefix(*framing + taken);
  }
  return data + (reader.done() ? "|done" : "|more");
}

}  // namespace
}  // namespace millrace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace millrace;
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto end = FindHead(bytes, 0);
  const size_t head_size = end.ok() ? end->value_or(0) : 0;
  if (head_size > 0) {
    const auto head = ParseHead(bytes.substr(0, head_size));
    if (head.ok() && head->framing == Framing::kChunked && head->content_length != 0) abort();
    if (head.ok()) (void)ParseTarget(head->target);
  }
  const absl::string_view body = bytes.substr(head_size);
  const std::string whole = ReadChunks(body, body.size());
  for (size_t piece : {1, 2, 7}) {
    if (ReadChunks(body, piece) != whole) abort();
  }
  return 0;
}
