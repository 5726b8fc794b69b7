// Any bytes are a message or an error, however they are cut; and generated code reads the same
// payload.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "proto/framing/framing.h"

namespace {

// The first byte says how long the slices are.
grpc::ByteBuffer Cut(const std::string& bytes, size_t slice_size) {
  std::vector<grpc::Slice> slices;
  for (size_t i = 0; i < bytes.size(); i += slice_size)
    slices.emplace_back(bytes.substr(i, slice_size));
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  grpc::ByteBuffer message = Cut(bytes, 1 + data[0] % 64);
  millrace::v1::RequestHeader header;
  const absl::StatusOr<millrace::Part> part = millrace::ReadPart(message, header);
  if (!part.ok()) return 0;
  std::string payload;
  const absl::Status status =
      millrace::ReadPayload(message, *part, [&](absl::Span<const std::byte> piece) {
        payload.append(reinterpret_cast<const char*>(piece.data()), piece.size());
        return absl::OkStatus();
      });
  if (!status.ok()) std::abort();
  // Generated code is stricter about the unknown fields that ours skips.
  millrace::v1::PredictRequest expected;
  if (expected.ParseFromString(bytes) && expected.payload() != payload) std::abort();
  (void)millrace::FromProto(header.tensors());
  return 0;
}
