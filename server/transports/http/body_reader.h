// The body of one request, whichever way it is framed.
#pragma once

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>

#include "server/transports/http/chunk_reader.h"
#include "server/transports/http/request_head.h"
#include "server/transports/http/stream.h"

namespace millrace {

// Used on the stream's thread.  The stream must outlive it.
class BodyReader {
 public:
  BodyReader(Stream& stream, const RequestHead& head);

  // Moves what came ahead into `space`, which is not empty.  Returns how many bytes of the body; 0
  // if none came, or at its end, from where on the stream is at the next request.
  // INVALID_ARGUMENT for broken framing.
  absl::StatusOr<size_t> Take(absl::Span<std::byte> space);

  // The same, but receives some, without a copy, where none came and it is not the end.  Errors
  // also CANCELLED as Stream, UNAVAILABLE when the client left.
  Async<absl::StatusOr<size_t>> Read(absl::Span<std::byte> space);

  // The end was reached.
  bool done() const { return framing_ == Framing::kChunked ? chunks_.done() : length_left_ == 0; }

 private:
  absl::StatusOr<size_t> TakeChunks(absl::Span<std::byte> space);
  size_t TakeData(absl::Span<std::byte> space);
  uint64_t data_left() const;
  void CountData(size_t size);

  Stream& stream_;
  const Framing framing_;
  uint64_t length_left_;
  ChunkReader chunks_;
};

}  // namespace millrace
