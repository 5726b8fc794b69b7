#include "server/transports/http/body_reader.h"

#include <algorithm>
#include <cstring>

#include "server/core/status_macros.h"

namespace millrace {
namespace {

// Nothing from the stream, where more of a body was due.
absl::StatusOr<size_t> NotTheEnd(absl::StatusOr<size_t> size) {
  if (!size.ok() || *size > 0) return size;
  return absl::UnavailableError("the client closed the connection in the middle of the body");
}

}  // namespace

BodyReader::BodyReader(Stream& stream, const RequestHead& head)
    : stream_(stream), framing_(head.framing), length_left_(head.content_length) {}

absl::StatusOr<size_t> BodyReader::Take(absl::Span<std::byte> space) {
  if (framing_ == Framing::kChunked) return TakeChunks(space);
  return TakeData(space);
}

Async<absl::StatusOr<size_t>> BodyReader::Read(absl::Span<std::byte> space) {
  while (true) {
    const absl::StatusOr<size_t> taken = Take(space);
    if (!taken.ok() || *taken > 0 || done()) co_return taken;
    if (data_left() > 0) {
      const size_t wanted = std::min<uint64_t>(space.size(), data_left());
      const absl::StatusOr<size_t> size =
          NotTheEnd(co_await stream_.Read(space.first(wanted), Stream::kNever));
      if (size.ok()) CountData(*size);
      co_return size;
    }
    const absl::StatusOr<size_t> more = NotTheEnd(co_await stream_.ReadAhead(Stream::kNever));
    if (!more.ok()) co_return more;
  }
}

// As many chunks as came ahead and fit.
absl::StatusOr<size_t> BodyReader::TakeChunks(absl::Span<std::byte> space) {
  size_t filled = 0;
  while (true) {
    ASSIGN_OR_RETURN(const size_t framing, chunks_.ReadFraming(stream_.ahead()));
    stream_.Consume(framing);
    if (stream_.ahead().empty() || done() || filled == space.size()) return filled;
    filled += TakeData(space.subspan(filled));
  }
}

// What came ahead of the data that is next, as far as it fits.
size_t BodyReader::TakeData(absl::Span<std::byte> space) {
  const size_t size = std::min<uint64_t>({stream_.ahead().size(), space.size(), data_left()});
  std::memcpy(space.data(), stream_.ahead().data(), size);
  stream_.Consume(size);
  CountData(size);
  return size;
}

// Bytes before the end of the body or the next framing.
uint64_t BodyReader::data_left() const {
  return framing_ == Framing::kChunked ? chunks_.data_left() : length_left_;
}

void BodyReader::CountData(size_t size) {
  if (framing_ == Framing::kChunked) return chunks_.TakeData(size);
  length_left_ -= size;
}

}  // namespace millrace
