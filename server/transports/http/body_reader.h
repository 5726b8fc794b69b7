// The body of one request, whichever way it is framed.
#pragma once

#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>

#include <boost/asio/awaitable.hpp>

#include "server/transports/http/chunk_reader.h"
#include "server/transports/http/request_head.h"
#include "server/transports/http/stream.h"

namespace millrace {

// Used on the stream's strand.  The stream must outlive it.
class BodyReader {
 public:
  BodyReader(Stream& stream, const RequestHead& head);

  // Receives some of the body into `space`, which is not empty, without a copy but for what came
  // ahead.  Returns how many bytes; 0 at the end of the body, from where on the stream is at the
  // next request.
  //
  // INVALID_ARGUMENT for broken framing, CANCELLED as Stream, UNAVAILABLE when the client left.
  boost::asio::awaitable<absl::StatusOr<size_t>> Read(absl::Span<std::byte> space);

  // The end was reached.
  bool done() const { return framing_ == Framing::kChunked ? chunks_.done() : length_left_ == 0; }

 private:
  boost::asio::awaitable<absl::StatusOr<size_t>> ReadData(absl::Span<std::byte> space);
  boost::asio::awaitable<absl::StatusOr<size_t>> ReadChunks(absl::Span<std::byte> space);
  absl::StatusOr<size_t> TakeChunksAhead(absl::Span<std::byte> space);

  Stream& stream_;
  const Framing framing_;
  uint64_t length_left_;
  ChunkReader chunks_;
};

}  // namespace millrace
