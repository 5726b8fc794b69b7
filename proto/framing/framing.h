// The messages of millrace.v1 that carry tensors, read and written without copying the payload.
//
// All of them look alike on the wire: field 1 is a header message and field 2 the payload's bytes,
// each at most once. Generated code would copy the payload into a std::string first; here it is
// copied once, from gRPC's slices to where it belongs, or sent from where it lies.
#pragma once

#include <absl/functional/function_ref.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>
#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "proto/millrace/v1/prediction.pb.h"
#include "proto/wire/tensor.h"

namespace millrace {

// The pieces that our client and server send: the fastest size, measured.
inline constexpr size_t kPieceSize = 512 << 10;

// Where the two fields of a message lie.
struct Part {
  bool has_header = false;
  uint64_t payload_offset = 0;  // in the message
  uint64_t payload_size = 0;
  bool has_payload = false;
};

// Finds the fields and parses the header, if there is one, into `header`.  INVALID_ARGUMENT for
// what is not such a message: malformed, or a field twice.  Unknown fields are skipped.
absl::StatusOr<Part> ReadPart(const grpc::ByteBuffer& message,
                              google::protobuf::MessageLite& header);

// Hands out the payload, slice by slice and in order, in place.  Stops at the first error that
// `sink` returns, and returns it.
absl::Status ReadPayload(const grpc::ByteBuffer& message, const Part& part,
                         absl::FunctionRef<absl::Status(absl::Span<const std::byte>)> sink);

// A message of a header (null: none) and a payload.  The payload's slices are referenced, not
// copied; none: no payload field.
grpc::ByteBuffer WritePart(const google::protobuf::MessageLite* header,
                           absl::Span<const grpc::Slice> payload);

// A slice over `bytes`, which must live until gRPC has sent them.
grpc::Slice BorrowedSlice(absl::Span<const std::byte> bytes);

// Between the proto's tensors and ours.  INVALID_ARGUMENT for a data type outside DType.  (A shape
// is checked by whoever needs its size.)
absl::StatusOr<std::vector<TensorMeta>> FromProto(
    const google::protobuf::RepeatedPtrField<v1::Tensor>& tensors);
void ToProto(const TensorMeta& meta, v1::Tensor& out);

}  // namespace millrace
