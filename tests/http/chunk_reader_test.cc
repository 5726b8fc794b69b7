#include "server/transports/http/chunk_reader.h"

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "server/core/status_macros.h"

namespace millrace {
namespace {

// Feeds the reader one piece; appends data to `data`.  Returns how much was used.
absl::StatusOr<size_t> Feed(ChunkReader& reader, absl::string_view piece, std::string& data) {
  const size_t size = piece.size();
  while (true) {
    ASSIGN_OR_RETURN(const size_t framing, reader.ReadFraming(piece));
    piece.remove_prefix(framing);
    if (piece.empty() || reader.done()) return size - piece.size();
    const size_t taken = std::min<uint64_t>(piece.size(), reader.data_left());
    data.append(piece.data(), taken);
    reader.TakeData(taken);
    piece.remove_prefix(taken);
  }
}

// What a body that comes in two pieces holds.
absl::StatusOr<std::string> Read(absl::string_view body, size_t cut) {
  ChunkReader reader;
  std::string data;
  RETURN_IF_ERROR(Feed(reader, body.substr(0, cut), data).status());
  RETURN_IF_ERROR(Feed(reader, body.substr(cut), data).status());
  if (!reader.done()) return absl::OutOfRangeError("not the end");
  return data;
}

TEST(ChunkReaderTest, ReadsTheSameWhereverItIsCut) {
  const std::string body = "5\r\nhello\r\n00a;x=\"y\"\r\n, world 12\r\n0;z\r\nT: x\r\nU: y\r\n\r\n";
  for (size_t cut = 0; cut <= body.size(); ++cut) {
    EXPECT_EQ(Read(body, cut).value(), "hello, world 12") << cut;
  }
}

TEST(ChunkReaderTest, StopsAtTheNextRequest) {
  ChunkReader reader;
  std::string data;
  EXPECT_EQ(Feed(reader, "0\r\n\r\nGET", data).value(), 5u);
  EXPECT_TRUE(reader.done());
}

TEST(ChunkReaderTest, RefusesWhatBreaksTheGrammar) {
  for (const char* body :
       {"\r\n", "x\r\n", "-1\r\n", "+1\r\n", " 1\r\n", "1 \r\na", "0x1\r\na", "1\na", "1\r\r\n",
        "1\r\nab\r\n", "1\r\na\n", "1\r\na\rb", "1;\x01\r\n", "1;a\nb\r\n", "0\r\n\n",
        "0\r\nA: b\n\r\n", "0\r\n\rx", "0\r\nA\x01\r\n"}) {
    EXPECT_EQ(Read(body, 0).status().code(), absl::StatusCode::kInvalidArgument) << body;
  }
}

TEST(ChunkReaderTest, RefusesSizesThatCouldOverflow) {
  EXPECT_TRUE(absl::IsOutOfRange(Read("fffffffffffffff\r\n", 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Read("ffffffffffffffff\r\n", 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(Read("0000000000000001\r\n", 0).status()));
}

TEST(ChunkReaderTest, BoundsExtensionsAndTrailers) {
  const std::string extension(ChunkReader::kMaxExtension, 'e');
  EXPECT_TRUE(Read("0;" + extension + "\r\n\r\n", 0).ok());
  EXPECT_FALSE(Read("0;" + extension + "e\r\n\r\n", 0).ok());
  const std::string trailer(ChunkReader::kMaxTrailers, 't');
  EXPECT_TRUE(Read("0\r\n" + trailer + "\r\n\r\n", 0).ok());
  EXPECT_FALSE(Read("0\r\n" + trailer + "\r\nt\r\n\r\n", 0).ok());
}

TEST(ChunkReaderTest, BoundsSmallChunksButNotLargeOnes) {
  ChunkReader reader;
  std::string data;
  for (uint64_t i = 0; i < ChunkReader::kMaxSmallChunks; ++i) {
    ASSERT_TRUE(Feed(reader, "1\r\nx\r\n", data).ok());
  }
  const std::string large(ChunkReader::kSmallChunk, 'x');
  EXPECT_TRUE(Feed(reader, absl::StrCat("400\r\n", large, "\r\n"), data).ok());
  EXPECT_FALSE(Feed(reader, "1\r\nx\r\n", data).ok());
}

}  // namespace
}  // namespace millrace
