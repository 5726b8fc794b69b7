// The two forms whose bytes are a tensor's: raw and .npy.
#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "proto/wire/npy.h"
#include "server/core/assembler.h"
#include "server/core/status_macros.h"
#include "server/transports/http/codec.h"

namespace millrace {
namespace {

constexpr absl::string_view kNpyMagic = "\x93NUMPY";

absl::string_view Text(const Tensor& body) {
  return {reinterpret_cast<const char*>(body.bytes.data()), body.bytes.size()};
}

// Bytes whose meaning their beginning tells.  Those of a chunked body are promised as they come.
Declaration Undeclared(const BodyInfo& info) {
  Declaration declaration;
  declaration.initial_bytes = info.size.value_or(0);
  declaration.max_bytes = info.size.value_or(0);
  return declaration;
}

absl::Status CheckSize(const TensorMeta& meta, uint64_t size) {
  ASSIGN_OR_RETURN(const uint64_t expected, ByteSize(meta.dtype, meta.shape));
  if (size == expected) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the body has ", size, " bytes of data, but ",
                                                 Name(meta.dtype), ToString(meta.shape), " takes ",
                                                 expected));
}

void SetName(const BodyInfo& info, TensorMeta& meta) {
  if (const auto name = info.target.Find("name")) meta.name = std::string(*name);
}

// ---- raw

bool SaysShapeOrType(const BodyInfo& info) {
  return info.target.Find("shape") || info.target.Find("dtype");
}

DType TypeOrFloat(const TensorSpec& input) {
  return input.dtype == DType::kUnspecified ? DType::kFloat32 : input.dtype;
}

// The type that the query says, else that of the input that the query names, else that of the only
// input.
absl::StatusOr<DType> RawType(const BodyInfo& info) {
  if (const auto text = info.target.Find("dtype")) {
    if (const auto dtype = ParseDType(*text); dtype && *dtype != DType::kUnspecified) return *dtype;
    return absl::InvalidArgumentError(
        absl::StrCat("\"", Printable(*text), "\" is no data type; write it as float32"));
  }
  const auto name = info.target.Find("name");
  for (const TensorSpec& input : info.spec.inputs) {
    if (name ? *name == input.name : info.spec.inputs.size() == 1) return TypeOrFloat(input);
  }
  // An input that there is not: the check of the declaration says so, whatever its type.
  if (name && !info.spec.inputs.empty()) return TypeOrFloat(info.spec.inputs.front());
  return absl::InvalidArgumentError(
      "the model does not tell the data type; add dtype=float32 to the query");
}

absl::StatusOr<TensorMeta> DescribeByQuery(const BodyInfo& info, std::optional<uint64_t> size) {
  TensorMeta meta;
  ASSIGN_OR_RETURN(meta.dtype, RawType(info));
  if (const auto shape = info.target.Find("shape")) {
    ASSIGN_OR_RETURN(meta.shape, ParseShape(*shape));
  } else {
    meta.shape = {static_cast<int64_t>(*size / ElementSize(meta.dtype))};
  }
  if (size) RETURN_IF_ERROR(CheckSize(meta, *size));
  return meta;
}

absl::StatusOr<TensorMeta> DescribeRaw(const BodyInfo& info, uint64_t size) {
  ASSIGN_OR_RETURN(TensorMeta meta, SaysShapeOrType(info) ? DescribeByQuery(info, size)
                                                          : DescribeBareBytes(info.spec, size));
  SetName(info, meta);
  return meta;
}

// ---- .npy

struct NpyHead {
  size_t size = 0;  // 0: not all of it is here
  TensorMeta meta;
};

absl::StatusOr<NpyHead> ReadNpyHead(absl::string_view bytes, const BodyInfo& info) {
  NpyHead head;
  if (bytes.size() < kNpyPreambleSize) return head;
  ASSIGN_OR_RETURN(const size_t size, NpyHeaderSize(bytes));
  if (bytes.size() < size) return head;
  ASSIGN_OR_RETURN(head.meta, ParseNpyHeader(bytes.substr(0, size)));
  SetName(info, head.meta);
  head.size = size;
  return head;
}

absl::StatusOr<bool> InspectNpy(absl::string_view bytes, const BodyInfo& info) {
  ASSIGN_OR_RETURN(const NpyHead head, ReadNpyHead(bytes, info));
  if (head.size == 0) return false;
  if (info.size && *info.size >= head.size) {
    RETURN_IF_ERROR(CheckSize(head.meta, *info.size - head.size));
  }
  std::vector<TensorMeta> metas = {head.meta};
  RETURN_IF_ERROR(CheckInputs(info.spec, metas));
  return true;
}

// The same values at an address that models may rely on: old writers of .npy align the data to 16
// bytes only.
absl::StatusOr<Tensor> Aligned(Tensor tensor, SlabPool& pool) {
  if (reinterpret_cast<uintptr_t>(tensor.bytes.data()) % kTensorAlignment == 0) return tensor;
  std::unique_ptr<Slab> slab = pool.Promise(tensor.bytes.size());
  if (slab == nullptr) {
    return absl::ResourceExhaustedError("no room for an aligned copy of the tensor; try again");
  }
  RETURN_IF_ERROR(slab->Map());
  std::memcpy(slab->data(), tensor.bytes.data(), tensor.bytes.size());
  tensor.bytes = absl::MakeConstSpan(slab->data(), tensor.bytes.size());
  tensor.slab = slab.get();
  tensor.owner = std::move(slab);
  return tensor;
}

absl::StatusOr<Question> DecodeNpy(Tensor body, const BodyInfo& info, SlabPool& pool) {
  ASSIGN_OR_RETURN(NpyHead head, ReadNpyHead(Text(body), info));
  if (head.size == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body ends after ", body.bytes.size(), " bytes, within the .npy header"));
  }
  body.bytes.remove_prefix(head.size);
  RETURN_IF_ERROR(CheckSize(head.meta, body.bytes.size()));
  body.meta = std::move(head.meta);
  ASSIGN_OR_RETURN(Tensor tensor, Aligned(std::move(body), pool));
  return Question{{std::move(tensor)}, &NpyCodec()};
}

bool IsNpy(const BodyInfo& info, absl::string_view bytes) {
  return !SaysShapeOrType(info) && absl::StartsWith(bytes, kNpyMagic);
}

class Raw final : public Codec {
 public:
  absl::string_view media_type() const override { return "application/octet-stream"; }
  absl::string_view way() const override { return "http-raw"; }

  bool Reads(absl::string_view type) const override {
    return type.empty() || type == media_type() || type == "application/x-www-form-urlencoded";
  }

  absl::StatusOr<Declaration> Declare(const BodyInfo& info) const override {
    const bool told = info.target.Find("shape") || (info.size && info.target.Find("dtype"));
    if (!told) return Undeclared(info);
    ASSIGN_OR_RETURN(TensorMeta meta, DescribeByQuery(info, info.size));
    SetName(info, meta);
    Declaration declaration;
    declaration.tensors = {std::move(meta)};
    return declaration;
  }

  absl::StatusOr<bool> Inspect(absl::string_view bytes, const BodyInfo& info) const override {
    if (bytes.size() < kNpyMagic.size()) return false;
    if (IsNpy(info, bytes)) return InspectNpy(bytes, info);
    if (info.size) RETURN_IF_ERROR(DescribeRaw(info, *info.size).status());
    return true;
  }

  absl::StatusOr<Question> Decode(Tensor body, const BodyInfo& info, SlabPool& pool,
                                  boost::asio::thread_pool&) const override {
    if (IsNpy(info, Text(body))) return DecodeNpy(std::move(body), info, pool);
    ASSIGN_OR_RETURN(body.meta, DescribeRaw(info, body.bytes.size()));
    return Question{{std::move(body)}, this};
  }

  absl::StatusOr<Answer> Encode(const Response& response, bool, SlabPool&) const override {
    const Tensor& output = response.outputs.front();
    return Answer{.content_type = std::string(media_type()),
                  .fields = {{"Millrace-Shape", absl::StrJoin(output.meta.shape, ",")},
                             {"Millrace-Dtype", std::string(Name(output.meta.dtype))}},
                  .tensor = output};
  }
};

class Npy final : public Codec {
 public:
  absl::string_view media_type() const override { return "application/x-npy"; }
  absl::string_view way() const override { return "http-npy"; }
  bool Reads(absl::string_view type) const override { return type == media_type(); }

  absl::StatusOr<Declaration> Declare(const BodyInfo& info) const override {
    return Undeclared(info);
  }

  absl::StatusOr<bool> Inspect(absl::string_view bytes, const BodyInfo& info) const override {
    return InspectNpy(bytes, info);
  }

  absl::StatusOr<Question> Decode(Tensor body, const BodyInfo& info, SlabPool& pool,
                                  boost::asio::thread_pool&) const override {
    return DecodeNpy(std::move(body), info, pool);
  }

  absl::StatusOr<Answer> Encode(const Response& response, bool, SlabPool&) const override {
    const Tensor& output = response.outputs.front();
    return Answer{.content_type = std::string(media_type()),
                  .text = NpyHeader(output.meta),
                  .tensor = output};
  }
};

}  // namespace

const Codec& RawCodec() {
  static const Raw codec;
  return codec;
}

const Codec& NpyCodec() {
  static const Npy codec;
  return codec;
}

}  // namespace millrace
