#include "server/transports/http/chunk_reader.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>

#include "server/core/status_macros.h"

namespace millrace {
namespace {

constexpr int kMaxDigits = 15;  // so that no size overflows

absl::Status Broken(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the chunked body is broken: ", what));
}

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

bool IsText(char c) { return c == '\t' || !absl::ascii_iscntrl(static_cast<unsigned char>(c)); }

}  // namespace

absl::StatusOr<size_t> ChunkReader::ReadFraming(absl::string_view bytes) {
  size_t taken = 0;
  while (taken < bytes.size() && state_ != State::kData && state_ != State::kDone) {
    RETURN_IF_ERROR(Take(bytes[taken++]));
  }
  return taken;
}

void ChunkReader::TakeData(uint64_t size) {
  data_left_ -= size;
  if (data_left_ == 0) state_ = State::kDataEnd;
}

absl::Status ChunkReader::Take(char c) {
  switch (state_) {
    case State::kSize:
      return TakeSize(c);
    case State::kExtension:
      return TakeExtension(c);
    case State::kSizeEnd:
      if (c != '\n') return Broken("a size line does not end in CR LF");
      return StartChunk();
    case State::kDataEnd:
      return Expect('\r', c, State::kDataEndLf);
    case State::kDataEndLf:
      return Expect('\n', c, State::kSize);
    case State::kTrailerStart:
    case State::kTrailer:
      return TakeTrailer(c);
    case State::kTrailerEnd:
      return Expect('\n', c, State::kTrailerStart);
    case State::kLastEnd:
      return Expect('\n', c, State::kDone);
    case State::kData:
    case State::kDone:
      break;
  }
  return absl::InternalError("a chunk's data was read as framing");
}

absl::Status ChunkReader::TakeSize(char c) {
  if (const int digit = HexDigit(c); digit >= 0) {
    if (++digits_ > kMaxDigits) return Broken("a chunk's size has more than 15 digits");
    data_left_ = data_left_ * 16 + static_cast<uint64_t>(digit);
    return absl::OkStatus();
  }
  if (digits_ == 0) return Broken("a chunk's size is not hexadecimal");
  if (c == ';') {
    state_ = State::kExtension;
    return absl::OkStatus();
  }
  if (c != '\r') return Broken("a chunk's size is not followed by CR LF");
  state_ = State::kSizeEnd;
  return absl::OkStatus();
}

absl::Status ChunkReader::TakeExtension(char c) {
  if (c == '\r') {
    state_ = State::kSizeEnd;
    return absl::OkStatus();
  }
  if (!IsText(c)) return Broken("a chunk extension has a control character");
  if (++extension_ > kMaxExtension) {
    return Broken(absl::StrCat("a chunk extension is longer than ", kMaxExtension, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status ChunkReader::StartChunk() {
  digits_ = 0;
  extension_ = 0;
  if (data_left_ == 0) {
    state_ = State::kTrailerStart;
    return absl::OkStatus();
  }
  if (data_left_ < kSmallChunk && ++small_chunks_ > kMaxSmallChunks) {
    return Broken(absl::StrCat("more than ", kMaxSmallChunks, " chunks are smaller than ",
                               kSmallChunk, " bytes; send larger ones"));
  }
  state_ = State::kData;
  return absl::OkStatus();
}

absl::Status ChunkReader::TakeTrailer(char c) {
  if (c == '\r') {
    state_ = state_ == State::kTrailerStart ? State::kLastEnd : State::kTrailerEnd;
    return absl::OkStatus();
  }
  if (!IsText(c)) return Broken("a trailer has a control character");
  if (++trailers_ > kMaxTrailers) {
    return Broken(absl::StrCat("the trailers are longer than ", kMaxTrailers, " bytes"));
  }
  state_ = State::kTrailer;
  return absl::OkStatus();
}

absl::Status ChunkReader::Expect(char expected, char c, State next) {
  if (c != expected) return Broken("CR LF is missing after a chunk's data or a trailer");
  state_ = next;
  return absl::OkStatus();
}

}  // namespace millrace
