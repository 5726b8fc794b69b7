#include "server/workers/message.h"

#include <absl/strings/ascii.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <simdjson.h>

#include <cstring>
#include <set>

#include "server/core/status_macros.h"

namespace millrace {
namespace {

namespace dom = simdjson::dom;

constexpr int kVersion = 1;
constexpr size_t kMaxTensors = 256;
constexpr size_t kMaxName = 1024;
constexpr size_t kMaxText = 1000;
constexpr size_t kPrefix = 4;

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("a message of a worker has no valid ", what));
}

// ---- writing

std::string Framed(absl::string_view text) {
  std::string message(kPrefix, '\0');
  for (size_t i = 0; i < kPrefix; ++i) message[i] = static_cast<char>(text.size() >> (8 * i));
  absl::StrAppend(&message, text);
  return message;
}

void AppendString(absl::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&out, "\\u%04x", c);
    } else {
      out += c;
    }
  }
  out += '"';
}

std::string Text(const Place& place) {
  if (place.memory == 0) return "";
  return absl::StrCat("\"memory\":", place.memory, ",\"offset\":", place.offset);
}

std::string Text(absl::Span<const MemoryMap> maps) {
  const auto append = [](std::string* out, const MemoryMap& map) {
    absl::StrAppend(out, "{\"memory\":", map.memory, ",\"size\":", map.size,
                    ",\"writable\":", map.writable ? "true" : "false", "}");
  };
  return absl::StrCat("\"maps\":[", absl::StrJoin(maps, ",", append), "]");
}

void AppendInput(const PlacedTensor& input, std::string& out) {
  out += "{\"name\":";
  AppendString(input.meta.name, out);
  absl::StrAppend(&out, ",\"dtype\":\"", Name(input.meta.dtype), "\",\"shape\":[",
                  absl::StrJoin(input.meta.shape, ","), "]", input.place.memory == 0 ? "" : ",",
                  Text(input.place), "}");
}

// ---- reading

struct Parts {
  dom::object header;
  absl::string_view tail;
};

absl::StatusOr<Parts> Split(absl::string_view message, dom::parser& parser) {
  if (message.size() < kPrefix) return Malformed("size");
  size_t size = 0;
  for (size_t i = 0; i < kPrefix; ++i)
    size |= static_cast<size_t>(static_cast<unsigned char>(message[i])) << (8 * i);
  if (size > message.size() - kPrefix) return Malformed("size");
  Parts parts;
  if (parser.parse(message.data() + kPrefix, size).get(parts.header)) return Malformed("text");
  parts.tail = message.substr(kPrefix + size);
  return parts;
}

bool Has(const dom::object& object, const char* key) {
  dom::element element;
  return !object.at_key(key).get(element) && !element.is_null();
}

// Text of the user's, which is valid UTF-8, in one line and not too long.
std::string OneLine(std::string text) {
  for (char& c : text) {
    if (absl::ascii_iscntrl(static_cast<unsigned char>(c))) c = ' ';
  }
  if (text.size() <= kMaxText) return text;
  size_t end = kMaxText;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return absl::StrCat(text.substr(0, end), "...");
}

absl::StatusOr<std::string> GetString(const dom::object& object, const char* key) {
  std::string_view text;
  if (object.at_key(key).get(text)) return Malformed(key);
  return std::string(text);
}

absl::StatusOr<uint64_t> GetNumber(const dom::object& object, const char* key) {
  uint64_t number = 0;
  if (object.at_key(key).get(number)) return Malformed(key);
  return number;
}

bool GetFlag(const dom::object& object, const char* key) {
  bool flag = false;
  return !object.at_key(key).get(flag) && flag;
}

// Every element of an array, each read by `read`.
template <typename T, typename Read>
absl::StatusOr<std::vector<T>> GetArray(const dom::object& object, const char* key, size_t most,
                                        Read read) {
  dom::array array;
  std::vector<T> values;
  if (object.at_key(key).get(array)) return Malformed(key);
  for (const dom::element element : array) {
    if (values.size() == most) return Malformed(key);
    ASSIGN_OR_RETURN(values.emplace_back(), read(element));
  }
  return values;
}

absl::StatusOr<int64_t> ReadSize(dom::element element) {
  int64_t size = 0;
  if (element.get(size) || size < kAnySize) return Malformed("shape");
  return size;
}

absl::StatusOr<uint64_t> ReadMemory(dom::element element) {
  uint64_t memory = 0;
  if (element.get(memory)) return Malformed("memory");
  return memory;
}

absl::StatusOr<std::string> ReadString(dom::element element) {
  std::string_view text;
  if (element.get(text)) return Malformed("file");
  return std::string(text);
}

absl::StatusOr<TensorSpec> ReadSpec(dom::element element) {
  dom::object object;
  if (element.get(object)) return Malformed("tensor");
  TensorSpec spec;
  ASSIGN_OR_RETURN(spec.name, GetString(object, "name"));
  if (spec.name.size() > kMaxName) return Malformed("name");
  if (Has(object, "dtype")) {
    ASSIGN_OR_RETURN(const std::string name, GetString(object, "dtype"));
    const auto dtype = ParseDType(name);
    if (!dtype || *dtype == DType::kUnspecified) return Malformed("dtype");
    spec.dtype = *dtype;
  }
  spec.any_shape = !Has(object, "shape");
  if (spec.any_shape) return spec;
  ASSIGN_OR_RETURN(spec.shape, GetArray<int64_t>(object, "shape", kMaxRank, ReadSize));
  return spec;
}

absl::StatusOr<TensorMeta> ReadMeta(dom::element element) {
  ASSIGN_OR_RETURN(TensorSpec spec, ReadSpec(element));
  RETURN_IF_ERROR(ByteSize(spec.dtype, spec.shape).status());
  if (spec.any_shape) return Malformed("shape");
  return TensorMeta{std::move(spec.name), spec.dtype, std::move(spec.shape)};
}

absl::StatusOr<std::vector<TensorSpec>> GetSpecs(const dom::object& object, const char* key) {
  ASSIGN_OR_RETURN(std::vector<TensorSpec> specs,
                   GetArray<TensorSpec>(object, key, kMaxTensors, ReadSpec));
  std::set<std::string> names;
  for (const TensorSpec& spec : specs) {
    if (spec.name.empty() || !names.insert(spec.name).second) return Malformed("name");
  }
  return specs;
}

absl::Status CheckNames(const std::vector<TensorMeta>& outputs) {
  std::set<absl::string_view> names;
  for (const TensorMeta& output : outputs) {
    if (!names.insert(output.name).second) return Malformed("name");
  }
  return absl::OkStatus();
}

absl::Status CheckTail(const std::vector<TensorMeta>& outputs, absl::string_view tail) {
  uint64_t left = tail.size();
  for (const TensorMeta& output : outputs) {
    const uint64_t size = ByteSize(output.dtype, output.shape).value();
    if (size > left) return Malformed("bytes");
    left -= size;
  }
  return left == 0 ? absl::OkStatus() : Malformed("bytes");
}

absl::Status ReadOutputs(const Parts& parts, Reply& reply) {
  ASSIGN_OR_RETURN(reply.outputs,
                   GetArray<TensorMeta>(parts.header, "outputs", kMaxTensors, ReadMeta));
  if (reply.outputs.empty()) return Malformed("outputs");
  RETURN_IF_ERROR(CheckNames(reply.outputs));
  reply.kind = Reply::Kind::kNeedsRoom;
  if (!GetFlag(parts.header, "inline")) return absl::OkStatus();
  reply.kind = Reply::Kind::kOutputs;
  reply.bytes = parts.tail;
  return CheckTail(reply.outputs, parts.tail);
}

}  // namespace

std::string RunMessage(uint64_t run, absl::Span<const PlacedTensor> inputs,
                       absl::Span<const MemoryMap> maps) {
  std::string text = absl::StrCat("{\"run\":", run, ",\"inputs\":[");
  for (const PlacedTensor& input : inputs) {
    if (&input != &inputs.front()) text += ',';
    AppendInput(input, text);
  }
  absl::StrAppend(&text, "],", Text(maps), "}");
  return Framed(text);
}

std::string RoomMessage(absl::Span<const Place> outputs, absl::Span<const MemoryMap> maps) {
  const auto append = [](std::string* out, const Place& place) {
    absl::StrAppend(out, "{", Text(place), "}");
  };
  return Framed(
      absl::StrCat("{\"outputs\":[", absl::StrJoin(outputs, ",", append), "],", Text(maps), "}"));
}

std::string ForgetMessage(absl::Span<const uint64_t> memories) {
  return Framed(absl::StrCat("{\"forget\":[", absl::StrJoin(memories, ","), "]}"));
}

absl::StatusOr<Hello> ParseHello(absl::string_view message) {
  constexpr size_t kMaxFiles = 1000;
  dom::parser parser;
  ASSIGN_OR_RETURN(const Parts parts, Split(message, parser));
  ASSIGN_OR_RETURN(const uint64_t version, GetNumber(parts.header, "version"));
  if (version != kVersion) return Malformed("version");
  Hello hello;
  ASSIGN_OR_RETURN(hello.files,
                   GetArray<std::string>(parts.header, "files", kMaxFiles, ReadString));
  if (Has(parts.header, "failed")) {
    ASSIGN_OR_RETURN(hello.failed, GetString(parts.header, "failed"));
    ASSIGN_OR_RETURN(hello.traceback, GetString(parts.header, "traceback"));
    if (hello.failed.empty()) return Malformed("reason");
    hello.failed = OneLine(std::move(hello.failed));
    return hello;
  }
  hello.spec.any_tensors = GetFlag(parts.header, "any_tensors");
  ASSIGN_OR_RETURN(hello.spec.inputs, GetSpecs(parts.header, "inputs"));
  if (Has(parts.header, "outputs")) {
    ASSIGN_OR_RETURN(hello.spec.outputs, GetSpecs(parts.header, "outputs"));
  }
  return hello;
}

absl::StatusOr<Reply> ParseReply(absl::string_view message) {
  dom::parser parser;
  ASSIGN_OR_RETURN(const Parts parts, Split(message, parser));
  Reply reply;
  ASSIGN_OR_RETURN(reply.run, GetNumber(parts.header, "run"));
  if (Has(parts.header, "dropped")) {
    ASSIGN_OR_RETURN(reply.dropped,
                     GetArray<uint64_t>(parts.header, "dropped", kMaxMaps * 2, ReadMemory));
  }
  if (Has(parts.header, "error")) {
    ASSIGN_OR_RETURN(std::string error, GetString(parts.header, "error"));
    reply.error = OneLine(std::move(error));
  } else if (GetFlag(parts.header, "written")) {
    reply.kind = Reply::Kind::kWritten;
  } else {
    RETURN_IF_ERROR(ReadOutputs(parts, reply));
  }
  return reply;
}

}  // namespace millrace
