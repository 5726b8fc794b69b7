#include "server/transports/http/body_reader.h"

#include <algorithm>
#include <cstring>

#include "server/core/status_macros.h"

namespace millrace {
namespace {

namespace asio = boost::asio;

// Nothing from the stream, where more of a body was due.
absl::StatusOr<size_t> NotTheEnd(absl::StatusOr<size_t> size) {
  if (!size.ok() || *size > 0) return size;
  return absl::UnavailableError("the client closed the connection in the middle of the body");
}

// Moves what fits from what came ahead.
size_t CopyAhead(Stream& stream, absl::Span<std::byte> space) {
  const size_t size = std::min(stream.ahead().size(), space.size());
  std::memcpy(space.data(), stream.ahead().data(), size);
  stream.Consume(size);
  return size;
}

}  // namespace

BodyReader::BodyReader(Stream& stream, const RequestHead& head)
    : stream_(stream), framing_(head.framing), length_left_(head.content_length) {}

asio::awaitable<absl::StatusOr<size_t>> BodyReader::Read(absl::Span<std::byte> space) {
  if (done()) co_return size_t{0};
  if (framing_ == Framing::kChunked) co_return co_await ReadChunks(space);
  const size_t wanted = std::min<uint64_t>(space.size(), length_left_);
  const absl::StatusOr<size_t> size = co_await ReadData(space.first(wanted));
  if (size.ok()) length_left_ -= *size;
  co_return size;
}

asio::awaitable<absl::StatusOr<size_t>> BodyReader::ReadData(absl::Span<std::byte> space) {
  if (!stream_.ahead().empty()) co_return CopyAhead(stream_, space);
  co_return NotTheEnd(co_await stream_.Read(space, Stream::kNever));
}

asio::awaitable<absl::StatusOr<size_t>> BodyReader::ReadChunks(absl::Span<std::byte> space) {
  while (true) {
    const absl::StatusOr<size_t> taken = TakeChunksAhead(space);
    if (!taken.ok() || *taken > 0 || done()) co_return taken;
    if (chunks_.data_left() > 0) {
      const size_t wanted = std::min<uint64_t>(space.size(), chunks_.data_left());
      const absl::StatusOr<size_t> size = co_await ReadData(space.first(wanted));
      if (size.ok()) chunks_.TakeData(*size);
      co_return size;
    }
    const absl::StatusOr<size_t> more = NotTheEnd(co_await stream_.ReadAhead(Stream::kNever));
    if (!more.ok()) co_return more;
  }
}

// As many chunks as came ahead and fit.
absl::StatusOr<size_t> BodyReader::TakeChunksAhead(absl::Span<std::byte> space) {
  size_t filled = 0;
  while (true) {
    ASSIGN_OR_RETURN(const size_t framing, chunks_.ReadFraming(stream_.ahead()));
    stream_.Consume(framing);
    if (stream_.ahead().empty() || done() || filled == space.size()) return filled;
    const size_t wanted = std::min<uint64_t>(space.size() - filled, chunks_.data_left());
    const size_t size = CopyAhead(stream_, space.subspan(filled, wanted));
    chunks_.TakeData(size);
    filled += size;
  }
}

}  // namespace millrace
