// The framing of a chunked body (RFC 9112, section 7.1), read strictly and under limits.
//
//   while (true) {
//     framing.remove_prefix(*chunks.ReadFraming(framing));   // size lines, line ends, trailers
//     if (chunks.done()) break;
//     ... take up to chunks.data_left() bytes of data, then chunks.TakeData(n) ...
//   }
//
// Sees one byte at a time, so that a cut anywhere changes nothing, and keeps no text.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>

#include <cstddef>
#include <cstdint>

namespace millrace {

class ChunkReader {
 public:
  static constexpr size_t kMaxExtension = 256;
  static constexpr size_t kMaxTrailers = 4096;

  // Chunks below kSmallChunk bytes cost more in framing than in data: a body may have so many of
  // them.
  static constexpr uint64_t kSmallChunk = 1024;
  static constexpr uint64_t kMaxSmallChunks = 1 << 20;

  // Takes framing from the front of `bytes` and stops before data, at the end of the body or of
  // `bytes`.  Returns how many bytes it took.  INVALID_ARGUMENT for whatever breaks the grammar or
  // a limit; the body is then lost.
  absl::StatusOr<size_t> ReadFraming(absl::string_view bytes);

  // Bytes of the current chunk that are still to come; while it is above 0, data comes next.
  uint64_t data_left() const { return state_ == State::kData ? data_left_ : 0; }

  // Requires size <= data_left().
  void TakeData(uint64_t size);

  // The last chunk and the trailers were read.
  bool done() const { return state_ == State::kDone; }

 private:
  // A body goes kSize -> [kExtension] -> kSizeEnd -> kData -> kDataEnd -> kDataEndLf -> kSize ...,
  // and after the chunk of size 0 through the kTrailer states to kDone.
  enum class State {
    kSize,
    kExtension,
    kSizeEnd,
    kData,
    kDataEnd,
    kDataEndLf,
    kTrailerStart,
    kTrailer,
    kTrailerEnd,
    kLastEnd,
    kDone
  };

  absl::Status Take(char c);
  absl::Status TakeSize(char c);
  absl::Status TakeExtension(char c);
  absl::Status TakeTrailer(char c);
  absl::Status Expect(char expected, char c, State next);
  absl::Status StartChunk();

  State state_ = State::kSize;
  uint64_t data_left_ = 0;
  int digits_ = 0;
  size_t extension_ = 0;
  size_t trailers_ = 0;
  uint64_t small_chunks_ = 0;
};

}  // namespace millrace
