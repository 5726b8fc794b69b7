#include "proto/framing/framing.h"

#include <gtest/gtest.h>

#include <span>
#include <string>

namespace millrace {
namespace {

// A message of the slices, cut where the caller cuts.
grpc::ByteBuffer Message(const std::vector<std::string>& pieces) {
  std::vector<grpc::Slice> slices(pieces.begin(), pieces.end());
  return grpc::ByteBuffer(slices.data(), slices.size());
}

std::string Flat(const grpc::ByteBuffer& message) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(message.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes;
}

// One message for each byte, as cut as a message can be.
grpc::ByteBuffer Crumbs(const std::string& bytes) {
  std::vector<std::string> pieces;
  for (const char byte : bytes) pieces.emplace_back(1, byte);
  return Message(pieces);
}

std::string Payload(grpc::ByteBuffer& message, const Part& part) {
  std::string payload;
  const absl::Status status = ReadPayload(message, part, [&](absl::Span<const std::byte> bytes) {
    payload.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    return absl::OkStatus();
  });
  EXPECT_TRUE(status.ok()) << status;
  return payload;
}

v1::RequestHeader Header() {
  v1::RequestHeader header;
  header.set_model("row_mean_std");
  ToProto({"image", DType::kFloat32, {2, 3}}, *header.add_tensors());
  return header;
}

absl::StatusCode Code(grpc::ByteBuffer message) {
  v1::RequestHeader header;
  return ReadPart(message, header).status().code();
}

TEST(FramingTest, GeneratedCodeReadsWhatWritePartWrites) {
  const v1::RequestHeader header = Header();
  const grpc::Slice slices[] = {grpc::Slice(std::string("abc")), grpc::Slice(std::string("def"))};
  v1::PredictRequest request;
  ASSERT_TRUE(request.ParseFromString(Flat(WritePart(&header, slices))));
  EXPECT_EQ(request.payload(), "abcdef");
  EXPECT_EQ(request.header().SerializeAsString(), header.SerializeAsString());
}

TEST(FramingTest, HeaderAndPayloadCanStandAlone) {
  const v1::RequestHeader header = Header();
  v1::PredictStreamRequest message;
  ASSERT_TRUE(message.ParseFromString(Flat(WritePart(&header, {}))));
  EXPECT_TRUE(message.has_header());
  ASSERT_TRUE(message.ParseFromString(Flat(WritePart(nullptr, {grpc::Slice(std::string("x"))}))));
  EXPECT_EQ(message.payload(), "x");
}

TEST(FramingTest, ReadsWhatGeneratedCodeWritesHoweverItIsCut) {
  v1::PredictRequest request;
  *request.mutable_header() = Header();
  request.set_payload(std::string(1000, 'p'));
  const std::string bytes = request.SerializeAsString();
  for (grpc::ByteBuffer message : {Message({bytes}), Crumbs(bytes)}) {
    v1::RequestHeader header;
    const absl::StatusOr<Part> part = ReadPart(message, header);
    ASSERT_TRUE(part.ok()) << part.status();
    EXPECT_TRUE(part->has_header && part->has_payload);
    EXPECT_EQ(header.model(), "row_mean_std");
    EXPECT_EQ(Payload(message, *part), request.payload());
  }
}

TEST(FramingTest, ReadsFieldsInEitherOrderAndSkipsUnknownOnes) {
  const std::string header = "\x0a\x03\x0a\x01m";
  const std::string payload = std::string("\x12\x02") + "ab";
  const std::string unknown = std::string("\x1a\x01") + "?";
  grpc::ByteBuffer message = Message({payload + unknown + header});
  v1::RequestHeader parsed;
  const absl::StatusOr<Part> part = ReadPart(message, parsed);
  ASSERT_TRUE(part.ok()) << part.status();
  EXPECT_EQ(parsed.model(), "m");
  EXPECT_EQ(Payload(message, *part), "ab");
}

TEST(FramingTest, TellsAnEmptyPayloadFromNone) {
  v1::RequestHeader header;
  grpc::ByteBuffer empty = WritePart(nullptr, {grpc::Slice()});
  EXPECT_TRUE(ReadPart(empty, header)->has_payload);
  grpc::ByteBuffer none = Message({""});
  EXPECT_FALSE(ReadPart(none, header)->has_payload);
}

TEST(FramingTest, RefusesFieldsThatComeTwice) {
  EXPECT_EQ(Code(Message({std::string("\x12\x01") + "a" + "\x12\x01" + "b"})),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Code(Message({std::string("\x0a\x00\x0a\x00", 4)})),
            absl::StatusCode::kInvalidArgument);
}

TEST(FramingTest, RefusesWhatEndsEarlyOrIsNoMessage) {
  for (const char* bytes :
       {"\x12\x05"
        "abc",
        "\x0a\x05"
        "abc",
        "\x12", "\x12\xff\xff\xff\xff\xff\x01", "\x1a\x7f", "\xff", "\x0b", "\x0a\x02\x0a\x05"}) {
    EXPECT_EQ(Code(Message({bytes})), absl::StatusCode::kInvalidArgument)
        << absl::Status(absl::StatusCode::kUnknown, bytes);
  }
}

TEST(FramingTest, StopsAtTheSinksError) {
  grpc::ByteBuffer message =
      WritePart(nullptr, {grpc::Slice(std::string("a")), grpc::Slice(std::string("b"))});
  v1::RequestHeader header;
  const absl::StatusOr<Part> part = ReadPart(message, header);
  int calls = 0;
  const absl::Status status = ReadPayload(message, *part, [&](absl::Span<const std::byte>) {
    ++calls;
    return absl::CancelledError("enough");
  });
  EXPECT_EQ(status.code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(calls, 1);
}

TEST(FramingTest, TensorsConvertBothWays) {
  const std::vector<TensorMeta> metas = {{"a", DType::kBfloat16, {}}, {"", DType::kBool, {0, 5}}};
  v1::RequestHeader header;
  for (const TensorMeta& meta : metas) ToProto(meta, *header.add_tensors());
  EXPECT_EQ(*FromProto(header.tensors()), metas);
}

TEST(FramingTest, RefusesDataTypesThatAreNone) {
  for (const int type : {0, -1, 14, 1000}) {
    v1::RequestHeader header;
    header.add_tensors()->set_data_type(static_cast<v1::DataType>(type));
    EXPECT_EQ(FromProto(header.tensors()).status().code(), absl::StatusCode::kInvalidArgument)
        << type;
  }
}

TEST(FramingTest, BorrowedSliceDoesNotCopy) {
  const std::string bytes(100, 'b');
  const grpc::Slice slice = BorrowedSlice(std::as_bytes(std::span(bytes)));
  EXPECT_EQ(slice.begin(), reinterpret_cast<const uint8_t*>(bytes.data()));
}

}  // namespace
}  // namespace millrace
