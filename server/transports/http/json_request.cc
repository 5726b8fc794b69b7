#include "server/transports/http/json_request.h"

#include <absl/container/inlined_vector.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <simdjson.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "proto/wire/tensor.h"
#include "server/core/errors.h"
#include "server/core/status_macros.h"
#include "server/transports/http/json_number.h"

namespace millrace {
namespace {

namespace ondemand = simdjson::ondemand;

constexpr size_t kMaxInputs = 256;
constexpr size_t kMaxDepth = kMaxRank + 4;  // of what is checked and ignored

// simdjson's index takes 4 bytes for each token, of which there is at most one a byte.
constexpr uint64_t kIndexBytes = 4;

absl::string_view Trimmed(std::string_view token) {
  const size_t last = token.find_last_not_of(" \t\r\n");
  return {token.data(), last == std::string_view::npos ? 0 : last + 1};
}

// A value's first token: all of a scalar, the bracket of an array or object.
absl::string_view Token(ondemand::value& value) {
  const std::string_view token = value.raw_json_token();
  return Trimmed(token);
}

char Kind(ondemand::value& value) {
  const absl::string_view token = Token(value);
  return token.empty() ? '\0' : token.front();
}

// What an array begins with, without reading it: the start of its first element, or "]".
char KindOfFirst(ondemand::value& array) {
  const char* at = array.raw_json_token().data() + 1;
  while (*at == ' ' || *at == '\t' || *at == '\r' || *at == '\n') ++at;
  return *at;
}

// One tensor on its way from text to memory.
struct Part {
  TensorMeta meta;
  size_t outer = 0;       // dimensions that the array of instances makes up
  uint64_t elements = 0;  // read so far
  uint64_t row = 0;       // instances read so far
  std::unique_ptr<Slab> slab = nullptr;
};

// Reads the text three times at most: for the shapes, for the types if the model has none, for the
// values.
class Reader {
 public:
  Reader(absl::string_view text, const ModelSpec& spec, SlabPool& pool)
      : text_(text), spec_(spec), pool_(pool) {}

  absl::StatusOr<JsonRequest> Read();

 private:
  enum class Pass { kShapes, kTypes, kValues };

  absl::Status ReadRoot(Pass pass);
  absl::Status ReadField(absl::string_view key, ondemand::value value, Pass pass);
  absl::Status ReadInputs(ondemand::value value, Pass pass);
  absl::Status ReadInstances(ondemand::value value, Pass pass);
  absl::Status ReadRows(ondemand::value value, Pass pass);
  absl::Status ReadNamed(ondemand::value value, Pass pass, size_t row);
  absl::Status ReadTensor(absl::string_view name, ondemand::value value, Pass pass, size_t row);

  absl::Status Plan(absl::string_view name, ondemand::value value);
  absl::Status AppendShape(ondemand::value value, Shape& shape);
  absl::Status PlanType(Part& part);
  absl::StatusOr<size_t> CountElements(ondemand::value value,
                                       std::optional<ondemand::value>& first);
  absl::Status Allocate();

  absl::Status Walk(ondemand::value value, Part& part, size_t depth, Pass pass);
  absl::Status WalkArray(ondemand::value value, Part& part, size_t depth, Pass pass);
  absl::Status TakeValue(absl::string_view token, Part& part, Pass pass);
  absl::Status Check(ondemand::value value, size_t depth);
  absl::Status CheckFields(ondemand::value value, size_t depth);
  absl::Status CheckElements(ondemand::value value, size_t depth);

  Part* Find(absl::string_view name);
  absl::StatusOr<std::string> Key(ondemand::field& field);
  std::vector<Tensor> TakeTensors();

  absl::Status Broken(simdjson::error_code error) const;
  absl::Status Fail(absl::string_view message) const;

  const absl::string_view text_;
  const ModelSpec& spec_;
  SlabPool& pool_;

  ondemand::parser parser_;
  ondemand::document document_;
  std::vector<Part> parts_;
  std::string source_;  // the key of the tensors, once seen: "inputs" or "instances"
  bool by_objects_ = false;
  std::optional<size_t> rows_;  // with objects in "instances"

  // Where the reader is, for messages.
  std::string place_;
  absl::InlinedVector<size_t, kMaxRank> indexes_;
};

absl::Status Reader::Fail(absl::string_view message) const {
  std::string place = place_;
  for (const size_t index : indexes_) absl::StrAppend(&place, "[", index, "]");
  return absl::InvalidArgumentError(absl::StrCat(place, place.empty() ? "" : ": ", message));
}

absl::Status Reader::Broken(simdjson::error_code error) const {
  return Fail(absl::StrCat("the JSON is broken: ", simdjson::error_message(error)));
}

absl::StatusOr<JsonRequest> Reader::Read() {
  const size_t capacity = text_.size() + JsonPadding();
  if (auto error = parser_.iterate(text_.data(), text_.size(), capacity).get(document_)) {
    return Broken(error);
  }
  RETURN_IF_ERROR(ReadRoot(Pass::kShapes));
  if (source_.empty()) return Fail("\"inputs\" or \"instances\" is missing");
  for (Part& part : parts_) RETURN_IF_ERROR(PlanType(part));
  if (spec_.any_tensors) RETURN_IF_ERROR(ReadRoot(Pass::kTypes));
  RETURN_IF_ERROR(Allocate());
  RETURN_IF_ERROR(ReadRoot(Pass::kValues));
  return JsonRequest{TakeTensors(), source_ == "instances"};
}

absl::Status Reader::ReadRoot(Pass pass) {
  document_.rewind();
  for (Part& part : parts_) part.elements = part.row = 0;
  ondemand::object root;
  if (auto error = document_.get_object().get(root)) {
    return error == simdjson::INCORRECT_TYPE ? Fail("the JSON is not an object") : Broken(error);
  }
  for (auto result : root) {
    place_.clear();
    ondemand::field field;
    if (auto error = std::move(result).get(field)) return Broken(error);
    ASSIGN_OR_RETURN(const std::string key, Key(field));
    RETURN_IF_ERROR(ReadField(key, field.value(), pass));
  }
  place_.clear();
  if (document_.current_location().error() != simdjson::OUT_OF_BOUNDS) {
    return Fail("the JSON goes on behind its end");
  }
  return absl::OkStatus();
}

absl::Status Reader::ReadField(absl::string_view key, ondemand::value value, Pass pass) {
  place_ = Printable(key);
  if (key == "inputs" || key == "instances") {
    if (pass == Pass::kShapes && !source_.empty()) {
      return Fail("exactly one of \"inputs\" and \"instances\" is expected");
    }
    source_ = std::string(key);
    return key == "inputs" ? ReadInputs(value, pass) : ReadInstances(value, pass);
  }
  if (key != "signature_name") {
    return Fail("no such field; expected are inputs or instances, and perhaps signature_name");
  }
  return pass == Pass::kValues ? Check(value, 0) : absl::OkStatus();
}

absl::Status Reader::ReadInputs(ondemand::value value, Pass pass) {
  if (Kind(value) == '{') return ReadNamed(value, pass, 0);
  return ReadTensor("", value, pass, 0);
}

absl::Status Reader::ReadInstances(ondemand::value value, Pass pass) {
  by_objects_ = Kind(value) == '[' && KindOfFirst(value) == '{';
  if (!by_objects_) return ReadTensor("", value, pass, 0);
  if (pass != Pass::kShapes) return ReadRows(value, pass);
  std::optional<ondemand::value> first;
  ASSIGN_OR_RETURN(rows_, CountElements(value, first));
  place_ += "[0]";
  return ReadNamed(*first, pass, 0);
}

absl::Status Reader::ReadRows(ondemand::value value, Pass pass) {
  ondemand::array rows;
  if (auto error = value.get_array().get(rows)) return Broken(error);
  size_t row = 0;
  for (auto result : rows) {
    ondemand::value object;
    place_ = absl::StrCat(source_, "[", row, "]");
    if (auto error = result.get(object)) return Broken(error);
    RETURN_IF_ERROR(ReadNamed(object, pass, row));
    ++row;
  }
  return absl::OkStatus();
}

// One object of named values.
absl::Status Reader::ReadNamed(ondemand::value value, Pass pass, size_t row) {
  const std::string place = place_;
  if (Kind(value) != '{') return Fail("an object of named inputs is expected, as before");
  ondemand::object object;
  if (auto error = value.get_object().get(object)) return Broken(error);
  size_t count = 0;
  for (auto result : object) {
    ondemand::field field;
    if (auto error = std::move(result).get(field)) return Broken(error);
    ASSIGN_OR_RETURN(const std::string name, Key(field));
    place_ = absl::StrCat(place, ".", Printable(name));
    RETURN_IF_ERROR(ReadTensor(name, field.value(), pass, row));
    ++count;
  }
  place_ = place;
  if (pass == Pass::kShapes || count == parts_.size()) return absl::OkStatus();
  return Fail(absl::StrCat("has ", count, " inputs where ", parts_.size(), " are expected"));
}

absl::Status Reader::ReadTensor(absl::string_view name, ondemand::value value, Pass pass,
                                size_t row) {
  Part* const part = Find(name);
  if (pass == Pass::kShapes) return part ? Fail("the name comes twice") : Plan(name, value);
  if (part == nullptr) return Fail("the first instance has no such input");
  if (part->row != row) return Fail("the name comes twice");
  ++part->row;
  return Walk(value, *part, part->outer, pass);
}

// ---- shapes and types

absl::Status Reader::Plan(absl::string_view name, ondemand::value value) {
  if (parts_.size() == kMaxInputs) return Fail(absl::StrCat("more than ", kMaxInputs, " inputs"));
  Part part;
  part.meta.name = std::string(name);
  if (rows_) {
    part.meta.shape.push_back(static_cast<int64_t>(*rows_));
    part.outer = 1;
  }
  RETURN_IF_ERROR(AppendShape(value, part.meta.shape));
  parts_.push_back(std::move(part));
  return absl::OkStatus();
}

// Follows the first elements down.
absl::Status Reader::AppendShape(ondemand::value value, Shape& shape) {
  std::optional<ondemand::value> next = value;
  while (next && Kind(*next) == '[') {
    if (shape.size() == kMaxRank) {
      return Fail(absl::StrCat("arrays are nested deeper than ", kMaxRank));
    }
    std::optional<ondemand::value> first;
    ASSIGN_OR_RETURN(const size_t count, CountElements(*next, first));
    shape.push_back(static_cast<int64_t>(count));
    next = first;
  }
  return absl::OkStatus();
}

absl::StatusOr<size_t> Reader::CountElements(ondemand::value value,
                                             std::optional<ondemand::value>& first) {
  ondemand::array array;
  if (auto error = value.get_array().get(array)) return Broken(error);
  size_t count = 0;
  if (auto error = array.count_elements().get(count)) return Broken(error);
  for (auto result : array) {
    ondemand::value element;
    if (auto error = result.get(element)) return Broken(error);
    first = element;
    break;
  }
  return count;
}

absl::Status Reader::PlanType(Part& part) {
  if (spec_.any_tensors) return absl::OkStatus();
  std::vector<absl::string_view> names;
  for (const TensorSpec& input : spec_.inputs) {
    names.push_back(input.name);
    const bool meant = part.meta.name.empty() ? spec_.inputs.size() == 1 && !by_objects_
                                              : input.name == part.meta.name;
    if (!meant) continue;
    part.meta.dtype = input.dtype;
    return absl::OkStatus();
  }
  const std::string expected = absl::StrJoin(names, ", ");
  if (part.meta.name.empty()) {
    return Fail(absl::StrCat("the model has several inputs; give an object of ", expected));
  }
  return Fail(absl::StrCat("the model has no input \"", Printable(part.meta.name), "\"; it has ",
                           expected));
}

// Promises no more than the text can hold values for, whatever shape its first elements pretend.
absl::Status Reader::Allocate() {
  for (Part& part : parts_) {
    if (part.meta.dtype == DType::kUnspecified) part.meta.dtype = DType::kFloat32;
    ASSIGN_OR_RETURN(const uint64_t count, ElementCount(part.meta.shape));
    const uint64_t most = std::min<uint64_t>(count, text_.size() / 2 + 1);
    part.slab = pool_.Promise(most * ElementSize(part.meta.dtype));
    if (part.slab == nullptr) {
      return absl::ResourceExhaustedError("no room for the tensors in the JSON; try again later");
    }
    RETURN_IF_ERROR(part.slab->Map());
  }
  return absl::OkStatus();
}

// ---- values

absl::Status Reader::Walk(ondemand::value value, Part& part, size_t depth, Pass pass) {
  if (depth < part.meta.shape.size()) return WalkArray(value, part, depth, pass);
  return TakeValue(Token(value), part, pass);
}

absl::Status Reader::WalkArray(ondemand::value value, Part& part, size_t depth, Pass pass) {
  const auto expected = static_cast<size_t>(part.meta.shape[depth]);
  if (Kind(value) != '[') {
    return Fail(absl::StrCat("an array of ", expected, " elements is expected, as before"));
  }
  ondemand::array array;
  if (auto error = value.get_array().get(array)) return Broken(error);
  indexes_.push_back(0);
  for (auto result : array) {
    ondemand::value element;
    if (auto error = result.get(element)) return Broken(error);
    if (indexes_.back() == expected) {
      return Fail(absl::StrCat("one more than the ", expected, " elements of the arrays before"));
    }
    RETURN_IF_ERROR(Walk(element, part, depth + 1, pass));
    ++indexes_.back();
  }
  const size_t count = indexes_.back();
  indexes_.pop_back();
  if (count == expected) return absl::OkStatus();
  return Fail(absl::StrCat(count, " elements where the arrays before have ", expected));
}

absl::Status Reader::TakeValue(absl::string_view token, Part& part, Pass pass) {
  if (pass == Pass::kValues) {
    const size_t size = ElementSize(part.meta.dtype);
    const absl::Status status =
        ParseElement(token, part.meta.dtype, part.slab->data() + part.elements++ * size);
    return status.ok() ? status : Fail(status.message());
  }
  const DType type = DetectType(token);
  if (type == DType::kUnspecified) return Fail(absl::StrCat(Printable(token, 32), " is no number"));
  DType& known = part.meta.dtype;
  if (known == DType::kUnspecified) known = type;
  if (known == type) return absl::OkStatus();
  if (known == DType::kBool || type == DType::kBool) return Fail("booleans and numbers are mixed");
  known = std::max(known, type);  // int64, uint64, float32
  return absl::OkStatus();
}

// ---- what is ignored

absl::Status Reader::Check(ondemand::value value, size_t depth) {
  if (depth == kMaxDepth) return Fail(absl::StrCat("nested deeper than ", kMaxDepth));
  const absl::string_view token = Token(value);
  switch (Kind(value)) {
    case '{':
      return CheckFields(value, depth);
    case '[':
      return CheckElements(value, depth);
    case '"':
      return value.get_string().error() ? Fail("a broken string") : absl::OkStatus();
    default:
      if (token == "null" || DetectType(token) != DType::kUnspecified) return absl::OkStatus();
      return Fail(absl::StrCat(Printable(token, 32), " is no JSON value"));
  }
}

absl::Status Reader::CheckFields(ondemand::value value, size_t depth) {
  ondemand::object object;
  if (auto error = value.get_object().get(object)) return Broken(error);
  for (auto result : object) {
    ondemand::field field;
    if (auto error = std::move(result).get(field)) return Broken(error);
    RETURN_IF_ERROR(Key(field).status());
    RETURN_IF_ERROR(Check(field.value(), depth + 1));
  }
  return absl::OkStatus();
}

absl::Status Reader::CheckElements(ondemand::value value, size_t depth) {
  ondemand::array array;
  if (auto error = value.get_array().get(array)) return Broken(error);
  for (auto result : array) {
    ondemand::value element;
    if (auto error = result.get(element)) return Broken(error);
    RETURN_IF_ERROR(Check(element, depth + 1));
  }
  return absl::OkStatus();
}

Part* Reader::Find(absl::string_view name) {
  for (Part& part : parts_) {
    if (part.meta.name == name) return &part;
  }
  return nullptr;
}

absl::StatusOr<std::string> Reader::Key(ondemand::field& field) {
  std::string_view key;
  if (auto error = field.unescaped_key().get(key)) return Broken(error);
  return std::string(key);
}

std::vector<Tensor> Reader::TakeTensors() {
  std::vector<Tensor> tensors;
  for (Part& part : parts_) {
    const size_t size = part.elements * ElementSize(part.meta.dtype);
    Tensor tensor;
    tensor.meta = std::move(part.meta);
    tensor.bytes = absl::MakeConstSpan(part.slab->data(), size);
    tensor.owner = std::move(part.slab);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace

size_t JsonPadding() { return simdjson::SIMDJSON_PADDING; }

absl::StatusOr<JsonRequest> ReadJsonRequest(absl::string_view text, const ModelSpec& spec,
                                            SlabPool& pool) {
  if (text.empty()) return absl::InvalidArgumentError("the JSON text is empty");
  if (text.size() > std::numeric_limits<uint32_t>::max() - JsonPadding()) {
    return TooLargeError("JSON text above 4 GB; send raw values or .npy");
  }
  const std::unique_ptr<Slab> index = pool.Promise(text.size() * kIndexBytes);
  if (index == nullptr) {
    return absl::ResourceExhaustedError("no room to read the JSON text; send raw values or .npy");
  }
  return Reader(text, spec, pool).Read();
}

}  // namespace millrace
