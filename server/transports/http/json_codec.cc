// JSON in both directions; json_request.h has the grammar of questions.
#include <absl/strings/str_cat.h>

#include <string>
#include <utility>

#include "proto/wire/text.h"
#include "server/core/status_macros.h"
#include "server/transports/http/codec.h"
#include "server/transports/http/json_number.h"
#include "server/transports/http/json_request.h"
#include "server/transports/http/json_text.h"

namespace millrace {
namespace {

// Characters that an element takes at most, with a separator and its share of brackets.
size_t WidestElement(DType dtype) {
  switch (ElementSize(dtype)) {
    case 1:
    case 2:
      return 20;
    case 4:
      return 24;
    default:
      return 40;
  }
}

uint64_t TextSize(const std::vector<Tensor>& outputs) {
  uint64_t size = 256;
  for (const Tensor& output : outputs) {
    const size_t element = ElementSize(output.meta.dtype);
    size += output.bytes.size() / element * WidestElement(output.meta.dtype);
    size += 8 * output.meta.name.size();
  }
  return size;
}

void AppendNamed(const std::vector<Tensor>& outputs, std::string& out) {
  absl::string_view separator = "{";
  for (const Tensor& output : outputs) {
    absl::StrAppend(&out, separator);
    AppendJsonString(output.meta.name, out);
    out += ": ";
    AppendJson(output, out);
    separator = ", ";
  }
  out += outputs.empty() ? "{}" : "}";
}

// The outputs' rows; an error unless they have the same number of them.
absl::StatusOr<int64_t> CountRows(const std::vector<Tensor>& outputs) {
  for (const Tensor& output : outputs) {
    if (output.meta.shape.empty() || output.meta.shape[0] != outputs[0].meta.shape[0]) {
      return absl::InvalidArgumentError(
          "the model's outputs have no common rows; ask with \"inputs\" in place of \"instances\"");
    }
  }
  return outputs[0].meta.shape[0];
}

Tensor Row(const Tensor& tensor, int64_t row) {
  Tensor part = tensor;
  const size_t size = tensor.bytes.size() / static_cast<size_t>(tensor.meta.shape[0]);
  part.meta.shape.erase(part.meta.shape.begin());
  part.bytes = tensor.bytes.subspan(static_cast<size_t>(row) * size, size);
  return part;
}

absl::Status AppendRows(const std::vector<Tensor>& outputs, std::string& out) {
  ASSIGN_OR_RETURN(const int64_t rows, CountRows(outputs));
  out += "[";
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<Tensor> parts;
    for (const Tensor& output : outputs) parts.push_back(Row(output, row));
    if (row > 0) out += ", ";
    AppendNamed(parts, out);
  }
  out += "]";
  return absl::OkStatus();
}

class Json final : public Codec {
 public:
  absl::string_view media_type() const override { return "application/json"; }
  absl::string_view way() const override { return "http-json"; }
  bool Reads(absl::string_view type) const override { return type == media_type(); }
  size_t padding() const override { return kJsonPadding; }
  bool slow() const override { return true; }

  absl::StatusOr<Declaration> Declare(const BodyInfo& info) const override {
    Declaration declaration;
    if (info.size) declaration.initial_bytes = *info.size + padding();
    declaration.max_bytes = declaration.initial_bytes;
    return declaration;
  }

  absl::StatusOr<bool> Inspect(absl::string_view, const BodyInfo&) const override { return true; }

  absl::StatusOr<Question> Decode(Tensor body, const BodyInfo& info, SlabPool& pool,
                                  boost::asio::thread_pool& workers) const override {
    const absl::string_view text(reinterpret_cast<const char*>(body.bytes.data()),
                                 body.bytes.size());
    ASSIGN_OR_RETURN(JsonRequest request, ReadJsonRequest(text, info.spec, pool, workers));
    return Question{std::move(request.tensors), this, request.by_rows};
  }

  absl::StatusOr<Answer> Encode(const Response& response, bool by_rows,
                                SlabPool& pool) const override {
    std::unique_ptr<Slab> claim = pool.Promise(TextSize(response.outputs));
    if (claim == nullptr) {
      return absl::ResourceExhaustedError(
          "no room for the answer as JSON; ask for application/octet-stream or try again later");
    }
    std::string text = by_rows ? "{\"predictions\": " : "{\"outputs\": ";
    if (response.outputs.size() == 1) {
      AppendJson(response.outputs[0], text);
    } else if (by_rows && !response.outputs.empty()) {
      RETURN_IF_ERROR(AppendRows(response.outputs, text));
    } else {
      AppendNamed(response.outputs, text);
    }
    text += "}\n";
    Answer answer = JsonAnswer(std::move(text));
    answer.claim = std::move(claim);
    return answer;
  }
};

}  // namespace

const Codec& JsonCodec() {
  static const Json codec;
  return codec;
}

}  // namespace millrace
