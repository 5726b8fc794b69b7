#include "proto/framing/framing.h"

#include <absl/strings/str_cat.h>
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <algorithm>
#include <utility>

namespace millrace {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedInputStream;
using google::protobuf::io::CodedOutputStream;

constexpr uint32_t kHeaderTag =
    WireFormatLite::MakeTag(1, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);
constexpr uint32_t kPayloadTag =
    WireFormatLite::MakeTag(2, WireFormatLite::WIRETYPE_LENGTH_DELIMITED);

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("not a message of millrace.v1.PredictionService: ", what));
}

bool ParseHeader(CodedInputStream& in, int size, google::protobuf::MessageLite& header) {
  const auto limit = in.PushLimit(size);
  const bool ok =
      header.MergeFromCodedStream(&in) && in.ConsumedEntireMessage() && in.BytesUntilLimit() == 0;
  in.PopLimit(limit);
  return ok;
}

}  // namespace

absl::StatusOr<Part> ReadPart(const grpc::ByteBuffer& message,
                              google::protobuf::MessageLite& header) {
  grpc::ProtoBufferReader reader(const_cast<grpc::ByteBuffer*>(&message));  // Only reads.
  if (!reader.status().ok()) return Malformed("compressed with an unknown method");
  CodedInputStream in(&reader);
  Part part;
  while (const uint32_t tag = in.ReadTag()) {
    int size = 0;
    if (tag != kHeaderTag && tag != kPayloadTag) {
      if (!WireFormatLite::SkipField(&in, tag)) return Malformed("a broken field");
      continue;
    }
    if (!in.ReadVarintSizeAsInt(&size)) return Malformed("a broken length");
    bool& seen = tag == kHeaderTag ? part.has_header : part.has_payload;
    if (std::exchange(seen, true)) return Malformed("a field that comes twice");
    if (tag == kHeaderTag) {
      if (!ParseHeader(in, size, header)) return Malformed("a broken header");
    } else {
      part.payload_offset = in.CurrentPosition();
      part.payload_size = size;
      if (!in.Skip(size)) return Malformed("a payload that ends early");
    }
  }
  if (!in.ConsumedEntireMessage()) return Malformed("a broken field");
  return part;
}

absl::Status ReadPayload(const grpc::ByteBuffer& message, const Part& part,
                         absl::FunctionRef<absl::Status(absl::Span<const std::byte>)> sink) {
  if (part.payload_size == 0) return absl::OkStatus();
  grpc::ProtoBufferReader reader(const_cast<grpc::ByteBuffer*>(&message));  // Only reads.
  if (!reader.Skip(static_cast<int>(part.payload_offset)))
    return Malformed("a payload that ends early");
  uint64_t left = part.payload_size;
  while (left > 0) {
    const void* data = nullptr;
    int size = 0;
    if (!reader.Next(&data, &size)) return Malformed("a payload that ends early");
    const size_t used = std::min<uint64_t>(left, size);
    const absl::Status status = sink({static_cast<const std::byte*>(data), used});
    if (!status.ok()) return status;
    left -= used;
  }
  return absl::OkStatus();
}

grpc::ByteBuffer WritePart(const google::protobuf::MessageLite* header,
                           absl::Span<const grpc::Slice> payload) {
  uint64_t payload_size = 0;
  for (const grpc::Slice& slice : payload) payload_size += slice.size();
  const size_t header_size = header != nullptr ? header->ByteSizeLong() : 0;

  // Two tags of one byte each and two lengths of at most ten.
  std::vector<uint8_t> lead(22 + header_size);
  uint8_t* end = lead.data();
  if (header != nullptr) {
    end = CodedOutputStream::WriteTagToArray(kHeaderTag, end);
    end = CodedOutputStream::WriteVarint32ToArray(static_cast<uint32_t>(header_size), end);
    end = header->SerializeWithCachedSizesToArray(end);
  }
  if (!payload.empty()) {
    end = CodedOutputStream::WriteTagToArray(kPayloadTag, end);
    end = CodedOutputStream::WriteVarint64ToArray(payload_size, end);
  }

  std::vector<grpc::Slice> slices;
  slices.reserve(1 + payload.size());
  slices.emplace_back(lead.data(), end - lead.data());
  slices.insert(slices.end(), payload.begin(), payload.end());
  return grpc::ByteBuffer(slices.data(), slices.size());
}

grpc::Slice BorrowedSlice(absl::Span<const std::byte> bytes) {
  return grpc::Slice(bytes.data(), bytes.size(), grpc::Slice::STATIC_SLICE);
}

absl::StatusOr<std::vector<TensorMeta>> FromProto(
    const google::protobuf::RepeatedPtrField<v1::Tensor>& tensors) {
  std::vector<TensorMeta> metas;
  metas.reserve(tensors.size());
  for (const v1::Tensor& tensor : tensors) {
    if (tensor.data_type() <= 0 || tensor.data_type() > kMaxDType) {
      return absl::InvalidArgumentError(absl::StrCat(
          "tensor \"", Printable(tensor.name()), "\" has data type ",
          static_cast<int>(tensor.data_type()), "; give it one of millrace.v1.DataType"));
    }
    metas.push_back({tensor.name(), static_cast<DType>(tensor.data_type()),
                     Shape(tensor.shape().begin(), tensor.shape().end())});
  }
  return metas;
}

void ToProto(const TensorMeta& meta, v1::Tensor& out) {
  out.set_name(meta.name);
  out.set_data_type(static_cast<v1::DataType>(meta.dtype));
  out.mutable_shape()->Assign(meta.shape.begin(), meta.shape.end());
}

}  // namespace millrace
