#include "server/transports/http/json_request.h"

#include <absl/functional/function_ref.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include "proto/wire/tensor.h"
#include "server/core/status_macros.h"
#include "server/transports/http/json_array.h"
#include "server/transports/http/json_number.h"
#include "server/transports/http/json_text.h"
#include "server/transports/http/parallel.h"

namespace millrace {
namespace {

using Pass = JsonArrayReader::Pass;

constexpr size_t kMaxInputs = 256;
constexpr size_t kMaxDepth = kMaxRank + 4;  // of what is checked and ignored

// The first number or word of a value.
absl::string_view FirstElement(const char* at) {
  while (*at == '[') at = SkipJsonSpace(at + 1);
  return JsonToken(at);
}

// One tensor on its way from text to memory.
struct Part {
  TensorMeta meta;
  JsonNest nest = {};     // of one instance
  uint64_t elements = 0;  // of one instance
  uint64_t row = 0;       // instances read so far
  uint64_t capacity = 0;  // elements that the slab has room for
  std::unique_ptr<Slab> slab = nullptr;
};

// Reads the text from its beginning to its end.  Only what comes instance by instance, and tensors
// whose type their first element does not tell, are read again.
class Reader {
 public:
  Reader(absl::string_view text, const ModelSpec& spec, SlabPool& pool,
         boost::asio::thread_pool& workers, JsonOptions options)
      : spec_(spec),
        pool_(pool),
        workers_(workers),
        options_(options),
        at_(SkipJsonSpace(text.data())),
        end_(text.data() + text.size()) {}

  absl::StatusOr<JsonRequest> Read();

 private:
  absl::Status ReadField(const std::string& key);
  absl::Status ReadSource();

  // A whole tensor in one value.
  absl::Status ReadTensor(const std::string& name);
  absl::Status ReadValues(Part& part);
  absl::Status ReadStretches(Part& part, std::vector<JsonArrayReader> stretches);
  std::vector<JsonArrayReader> Divide(const JsonReach& reach, const JsonArrayReader& first) const;

  // Tensors of which each instance has a row.
  absl::Status ReadInstances();
  absl::Status ReadRows(Pass pass);
  absl::Status ReadRow(Pass pass, uint64_t row);
  absl::Status ReadRowOf(const std::string& name, Pass pass, uint64_t row);
  absl::Status AllocateRows(Part& part, uint64_t rows);

  absl::StatusOr<Part*> Add(const std::string& name);
  Part* Find(absl::string_view name);
  absl::StatusOr<DType> TypeOf(const std::string& name) const;
  absl::Status Allocate(Part& part, uint64_t elements);
  absl::StatusOr<std::vector<Tensor>> TakeTensors();

  // The grammar of all but tensors.
  absl::Status ReadObject(absl::FunctionRef<absl::Status(const std::string& key)> field);
  absl::Status ReadList(char close, absl::FunctionRef<absl::Status()> element);
  absl::Status ReadString(std::string& out);
  absl::Status Check(size_t depth);

  absl::Status Fail(absl::string_view message) const;
  absl::Status Broken(absl::string_view expected) const;

  const ModelSpec& spec_;
  SlabPool& pool_;
  boost::asio::thread_pool& workers_;
  const JsonOptions options_;

  const char* at_;  // behind spaces
  const char* const end_;
  std::vector<Part> parts_;
  std::string source_;  // the key of the tensors, once seen: "inputs" or "instances"
  std::string place_;   // of what is being read, for messages
};

absl::Status Reader::Fail(absl::string_view message) const {
  return absl::InvalidArgumentError(absl::StrCat(place_, place_.empty() ? "" : ": ", message));
}

absl::Status Reader::Broken(absl::string_view expected) const {
  return Fail(absl::StrCat("the JSON is broken: ", expected, " is expected"));
}

absl::StatusOr<JsonRequest> Reader::Read() {
  if (*at_ != '{') return Fail("the JSON is not an object");
  RETURN_IF_ERROR(ReadObject([this](const std::string& key) { return ReadField(key); }));
  if (at_ != end_) return Fail("the JSON goes on behind its end");
  if (source_.empty()) return Fail("\"inputs\" or \"instances\" is missing");
  ASSIGN_OR_RETURN(std::vector<Tensor> tensors, TakeTensors());
  return JsonRequest{std::move(tensors), source_ == "instances"};
}

absl::Status Reader::ReadField(const std::string& key) {
  place_ = Printable(key);
  if (key == "inputs" || key == "instances") {
    if (!source_.empty()) return Fail("exactly one of \"inputs\" and \"instances\" is expected");
    source_ = key;
    RETURN_IF_ERROR(ReadSource());
  } else if (key == "signature_name") {
    RETURN_IF_ERROR(Check(0));
  } else {
    return Fail("no such field; expected are inputs or instances, and perhaps signature_name");
  }
  place_.clear();
  return absl::OkStatus();
}

absl::Status Reader::ReadSource() {
  const bool is_array = *at_ == '[';
  if (source_ == "instances" && is_array && *SkipJsonSpace(at_ + 1) == '{') return ReadInstances();
  if (source_ == "instances" || *at_ != '{') return ReadTensor("");
  return ReadObject([this](const std::string& name) {
    place_ = absl::StrCat(source_, ".", Printable(name));
    return ReadTensor(name);
  });
}

// ---- a whole tensor in one value

absl::Status Reader::ReadTensor(const std::string& name) {
  ASSIGN_OR_RETURN(Part* const part, Add(name));
  const char* const begin = at_;
  if (spec_.any_tensors) part->meta.dtype = DetectType(FirstElement(at_));
  const absl::Status status = ReadValues(*part);
  if (!spec_.any_tensors || !absl::IsInvalidArgument(status)) return status;
  JsonArrayReader types({.pass = Pass::kTypes, .place = place_}, {}, begin);
  RETURN_IF_ERROR(types.Read());
  part->meta.dtype = types.dtype();
  at_ = begin;
  return ReadValues(*part);
}

absl::Status Reader::ReadValues(Part& part) {
  const JsonReach reach = MeasureReach(at_, end_, options_.stretch);
  RETURN_IF_ERROR(Allocate(part, reach.most));
  const JsonArrayReader first({.pass = Pass::kValues,
                               .place = place_,
                               .dtype = part.meta.dtype,
                               .out = part.slab->data(),
                               .limit = part.capacity},
                              reach.marks.empty() ? JsonNest() : MeasureNest(at_, end_), at_);
  return ReadStretches(part, Divide(reach, first));
}

std::vector<JsonArrayReader> Reader::Divide(const JsonReach& reach,
                                            const JsonArrayReader& first) const {
  std::vector<JsonArrayReader> stretches(1, first);
  if (first.nest().Stride() == 0) return stretches;
  for (const JsonReach::Mark& mark : reach.marks) {
    stretches.back().StopBefore(mark.element);
    stretches.push_back(first);
    stretches.back().Jump(mark.at, mark.element);
  }
  return stretches;
}

// A stretch begins as it should if those before it were right, and so the first error is the
// text's first error.
absl::Status Reader::ReadStretches(Part& part, std::vector<JsonArrayReader> stretches) {
  std::vector<absl::Status> statuses(stretches.size());
  InParallel(workers_, stretches.size(), [&](size_t i) { statuses[i] = stretches[i].Read(); });
  for (size_t i = 0; i < stretches.size(); ++i) {
    RETURN_IF_ERROR(statuses[i]);
    if (!stretches[i].done()) continue;
    part.meta.shape = stretches[i].nest().shape;
    at_ = stretches[i].at();
    return absl::OkStatus();
  }
  return Broken("an end of the array");
}

// ---- tensors of which each instance has a row

absl::Status Reader::ReadInstances() {
  const char* const begin = at_;
  // No more rows than this.
  const auto rows = static_cast<uint64_t>(std::count(at_, end_, '{'));
  RETURN_IF_ERROR(ReadRows(Pass::kShapes));
  if (spec_.any_tensors) {
    at_ = begin;
    RETURN_IF_ERROR(ReadRows(Pass::kTypes));
  }
  for (Part& part : parts_) RETURN_IF_ERROR(AllocateRows(part, rows));
  at_ = begin;
  RETURN_IF_ERROR(ReadRows(Pass::kValues));
  for (Part& part : parts_) {
    part.meta.shape = part.nest.shape;
    part.meta.shape.insert(part.meta.shape.begin(), static_cast<int64_t>(part.row));
  }
  return absl::OkStatus();
}

// Shapes are those of the first row.
absl::Status Reader::ReadRows(Pass pass) {
  for (Part& part : parts_) part.row = 0;
  uint64_t row = 0;
  if (pass == Pass::kShapes) {
    at_ = SkipJsonSpace(at_ + 1);
    return ReadRow(pass, row);
  }
  return ReadList(']', [&] { return ReadRow(pass, row++); });
}

absl::Status Reader::ReadRow(Pass pass, uint64_t row) {
  const std::string place = absl::StrCat(source_, "[", row, "]");
  place_ = place;
  if (*at_ != '{') return Fail("an object of named inputs is expected, as before");
  size_t count = 0;
  RETURN_IF_ERROR(ReadObject([&](const std::string& name) {
    place_ = absl::StrCat(place, ".", Printable(name));
    ++count;
    return ReadRowOf(name, pass, row);
  }));
  place_ = place;
  if (count == parts_.size()) return absl::OkStatus();
  return Fail(absl::StrCat("has ", count, " inputs where ", parts_.size(), " are expected"));
}

absl::Status Reader::ReadRowOf(const std::string& name, Pass pass, uint64_t row) {
  if (pass == Pass::kShapes) RETURN_IF_ERROR(Add(name).status());
  Part* const part = Find(name);
  if (part == nullptr) return Fail("the first instance has no such input");
  if (part->row != row) return Fail("the name comes twice");
  ++part->row;
  JsonArrayReader::Options options = {.pass = pass, .place = place_, .dtype = part->meta.dtype};
  if (pass == Pass::kValues) {
    const uint64_t first = row * part->elements;
    options.out = part->slab->data() + first * ElementSize(options.dtype);
    options.limit = part->capacity - first;
  }
  JsonArrayReader reader(options, part->nest, at_);
  RETURN_IF_ERROR(reader.Read());
  if (!reader.done()) return Broken("an end of the array");
  part->nest = reader.nest();
  part->meta.dtype = reader.dtype();
  at_ = reader.at();
  return absl::OkStatus();
}

// No more than the text can hold, whatever shape its first row pretends.
absl::Status Reader::AllocateRows(Part& part, uint64_t rows) {
  ASSIGN_OR_RETURN(part.elements, ElementCount(part.nest.shape));
  const uint64_t most = static_cast<uint64_t>(end_ - at_) / 2 + 1;
  const bool fits = part.elements == 0 || rows <= most / part.elements;
  return Allocate(part, fits ? rows * part.elements : most);
}

// ---- tensors

absl::StatusOr<Part*> Reader::Add(const std::string& name) {
  if (Find(name) != nullptr) return Fail("the name comes twice");
  if (parts_.size() == kMaxInputs) return Fail(absl::StrCat("more than ", kMaxInputs, " inputs"));
  ASSIGN_OR_RETURN(const DType dtype, TypeOf(name));
  parts_.push_back({.meta = {.name = name, .dtype = dtype, .shape = {}}});
  return &parts_.back();
}

Part* Reader::Find(absl::string_view name) {
  for (Part& part : parts_) {
    if (part.meta.name == name) return &part;
  }
  return nullptr;
}

// Unspecified with a model that takes any.
absl::StatusOr<DType> Reader::TypeOf(const std::string& name) const {
  if (spec_.any_tensors) return DType::kUnspecified;
  const bool only = name.empty() && spec_.inputs.size() == 1;
  std::vector<absl::string_view> names;
  for (const TensorSpec& input : spec_.inputs) {
    if (input.name == name || only) return input.dtype;
    names.push_back(input.name);
  }
  const std::string expected = absl::StrJoin(names, ", ");
  if (name.empty()) {
    return Fail(absl::StrCat("the model has several inputs; give an object of ", expected));
  }
  return Fail(absl::StrCat("the model has no input \"", Printable(name), "\"; it has ", expected));
}

absl::Status Reader::Allocate(Part& part, uint64_t elements) {
  if (part.meta.dtype == DType::kUnspecified) part.meta.dtype = DType::kFloat32;
  part.capacity = elements;
  part.slab = nullptr;
  part.slab = pool_.Promise(elements * ElementSize(part.meta.dtype));
  if (part.slab == nullptr) {
    return absl::ResourceExhaustedError("no room for the tensors in the JSON; try again later");
  }
  return part.slab->Map();
}

absl::StatusOr<std::vector<Tensor>> Reader::TakeTensors() {
  std::vector<Tensor> tensors;
  for (Part& part : parts_) {
    ASSIGN_OR_RETURN(const uint64_t count, ElementCount(part.meta.shape));
    if (count > part.capacity) return absl::InternalError("JSON with more elements than promised");
    Tensor tensor;
    tensor.bytes = absl::MakeConstSpan(part.slab->data(), count * ElementSize(part.meta.dtype));
    tensor.meta = std::move(part.meta);
    tensor.slab = part.slab.get();
    tensor.owner = std::move(part.slab);
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

// ---- the grammar of all but tensors

absl::Status Reader::ReadObject(absl::FunctionRef<absl::Status(const std::string&)> field) {
  return ReadList('}', [&]() -> absl::Status {
    std::string key;
    RETURN_IF_ERROR(ReadString(key));
    if (*at_ != ':') return Broken(":");
    at_ = SkipJsonSpace(at_ + 1);
    return field(key);
  });
}

// Elements with commas between them, from an opening bracket to the closing one.
absl::Status Reader::ReadList(char close, absl::FunctionRef<absl::Status()> element) {
  at_ = SkipJsonSpace(at_ + 1);
  bool first = true;
  while (*at_ != close || !first) {
    RETURN_IF_ERROR(element());
    if (*at_ == close) break;
    if (*at_ != ',') return Broken(absl::StrCat(", or ", absl::string_view(&close, 1)));
    at_ = SkipJsonSpace(at_ + 1);
    first = false;
  }
  at_ = SkipJsonSpace(at_ + 1);
  return absl::OkStatus();
}

absl::Status Reader::ReadString(std::string& out) {
  if (*at_ != '"') return Broken("a string");
  const char* const behind = ReadJsonString(at_, out);
  if (behind == nullptr) return Fail("the JSON is broken: a string is not well-formed");
  at_ = SkipJsonSpace(behind);
  return absl::OkStatus();
}

// Any value, which is ignored.
absl::Status Reader::Check(size_t depth) {
  if (depth == kMaxDepth) return Fail(absl::StrCat("nested deeper than ", kMaxDepth));
  std::string ignored;
  switch (*at_) {
    case '{':
      return ReadObject([&](const std::string&) { return Check(depth + 1); });
    case '[':
      return ReadList(']', [&] { return Check(depth + 1); });
    case '"':
      return ReadString(ignored);
    default:
      break;
  }
  const absl::string_view token = JsonToken(at_);
  if (token != "null" && DetectType(token) == DType::kUnspecified) {
    return Fail(absl::StrCat(Printable(token, 32), " is no JSON value"));
  }
  at_ = SkipJsonSpace(at_ + token.size());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<JsonRequest> ReadJsonRequest(absl::string_view text, const ModelSpec& spec,
                                            SlabPool& pool, boost::asio::thread_pool& workers,
                                            JsonOptions options) {
  if (text.empty()) return absl::InvalidArgumentError("the JSON text is empty");
  return Reader(text, spec, pool, workers, options).Read();
}

}  // namespace millrace
