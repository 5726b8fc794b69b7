#include "proto/wire/npy.h"

#include <absl/strings/ascii.h>
#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <absl/strings/strip.h>

#include <algorithm>
#include <optional>
#include <utility>

namespace millrace {
namespace {

constexpr absl::string_view kMagic = "\x93NUMPY";
constexpr size_t kAlignment = 64;

// NumPy's type codes, without the byte order in front.
constexpr std::pair<absl::string_view, DType> kCodes[] = {
    {"b1", DType::kBool},    {"i1", DType::kInt8},    {"i2", DType::kInt16},
    {"i4", DType::kInt32},   {"i8", DType::kInt64},   {"u1", DType::kUint8},
    {"u2", DType::kUint16},  {"u4", DType::kUint32},  {"u8", DType::kUint64},
    {"f2", DType::kFloat16}, {"f4", DType::kFloat32}, {"f8", DType::kFloat64},
};

absl::Status Malformed(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("not a .npy file: ", what));
}

// Reads Python literals from left to right; each function is false, and has read an unspecified
// part of the text, where something else comes.
class LiteralReader {
 public:
  explicit LiteralReader(absl::string_view text) : rest_(text) {}

  bool Next(char symbol) {
    rest_ = absl::StripLeadingAsciiWhitespace(rest_);
    return absl::ConsumePrefix(&rest_, absl::string_view(&symbol, 1));
  }

  // Without escapes, which no key and no accepted type has.
  bool String(absl::string_view& out) {
    const char quote = Next('\'') ? '\'' : '"';
    if (quote == '"' && !Next('"')) return false;
    const size_t end = rest_.find(quote);
    if (end == absl::string_view::npos) return false;
    out = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return true;
  }

  bool Bool(bool& out) {
    rest_ = absl::StripLeadingAsciiWhitespace(rest_);
    out = absl::ConsumePrefix(&rest_, "True");
    return out || absl::ConsumePrefix(&rest_, "False");
  }

  // "()", "(3,)", "(3, 4)".
  bool Tuple(Shape& out) {
    if (!Next('(')) return false;
    while (!Next(')')) {
      if (!Size(out.emplace_back())) return false;
      if (!Next(',')) return out.size() > 1 && Next(')');
    }
    return true;
  }

  bool AtEnd() const { return absl::StripLeadingAsciiWhitespace(rest_).empty(); }

 private:
  bool Size(int64_t& out) {
    rest_ = absl::StripLeadingAsciiWhitespace(rest_);
    const size_t end = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
    if (!absl::SimpleAtoi(rest_.substr(0, end), &out)) return false;
    rest_.remove_prefix(end);
    absl::ConsumePrefix(&rest_, "L");  // As Python 2 wrote it.
    return true;
  }

  absl::string_view rest_;
};

struct Header {
  std::optional<absl::string_view> descr;
  std::optional<bool> fortran_order;
  std::optional<Shape> shape;
};

// One "key: value", each key once.
bool ReadEntry(LiteralReader& in, Header& header) {
  absl::string_view key;
  if (!in.String(key) || !in.Next(':')) return false;
  if (key == "descr") return !header.descr && in.String(header.descr.emplace());
  if (key == "fortran_order")
    return !header.fortran_order && in.Bool(header.fortran_order.emplace());
  return key == "shape" && !header.shape && in.Tuple(header.shape.emplace());
}

bool ReadDict(LiteralReader& in, Header& header) {
  if (!in.Next('{')) return false;
  while (!in.Next('}')) {
    if (!ReadEntry(in, header)) return false;
    if (!in.Next(',')) return in.Next('}');
  }
  return true;
}

absl::StatusOr<Header> ParseLiteral(absl::string_view text) {
  LiteralReader in(text);
  Header header;
  if (ReadDict(in, header) && in.AtEnd() && header.descr && header.fortran_order && header.shape) {
    return header;
  }
  if (absl::StrContains(text, "'descr': [")) {
    return absl::InvalidArgumentError(
        "the array is structured; save one field at a time, as array['NAME']");
  }
  return Malformed("its header is broken");
}

absl::StatusOr<DType> ParseDescr(absl::string_view descr) {
  const absl::string_view order = descr.substr(0, 1);
  const absl::string_view code = descr.substr(order.size());
  const auto* const found = std::find_if(std::begin(kCodes), std::end(kCodes),
                                         [&](const auto& entry) { return entry.first == code; });
  if (found == std::end(kCodes) || !absl::StrContains("<>|=", order)) {
    return absl::InvalidArgumentError(
        absl::StrCat("elements of NumPy type \"", Printable(descr),
                     "\"; convert them first, such as with array.astype('float32')"));
  }
  if (order == ">" && ElementSize(found->second) > 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the elements are big-endian; convert them first with array.astype('<", code, "')"));
  }
  return found->second;
}

bool SameInBothOrders(absl::Span<const int64_t> shape) {
  return std::count_if(shape.begin(), shape.end(), [](int64_t size) { return size != 1; }) <= 1;
}

absl::string_view Code(DType dtype) {
  if (dtype == DType::kBfloat16) dtype = DType::kUint16;
  for (const auto& [code, type] : kCodes) {
    if (type == dtype) return code;
  }
  return "V0";
}

uint32_t LittleEndian(absl::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = bytes.size(); i-- > 0;) value = value << 8 | static_cast<uint8_t>(bytes[i]);
  return value;
}

size_t PreambleSize(uint8_t version) { return version == 1 ? 10 : 12; }

}  // namespace

absl::StatusOr<size_t> NpyHeaderSize(absl::string_view prefix) {
  if (!absl::StartsWith(prefix, kMagic)) return Malformed("it does not start with \\x93NUMPY");
  if (prefix.size() < kNpyPreambleSize) return Malformed("it ends within its header");
  const uint8_t version = static_cast<uint8_t>(prefix[kMagic.size()]);
  if (version < 1 || version > 3 || prefix[kMagic.size() + 1] != 0) {
    return absl::InvalidArgumentError(
        "a .npy file of an unknown version; 1.0, 2.0 and 3.0 can be read");
  }
  const size_t preamble = PreambleSize(version);
  const size_t size = preamble + LittleEndian(prefix.substr(8, preamble - 8));
  if (size < kNpyPreambleSize) return Malformed("its header is broken");
  if (size > kMaxNpyHeaderSize) {
    return absl::InvalidArgumentError(absl::StrCat("a .npy header of ", size, " bytes; at most ",
                                                   kMaxNpyHeaderSize, " are read"));
  }
  return size;
}

absl::StatusOr<TensorMeta> ParseNpyHeader(absl::string_view header) {
  absl::StatusOr<size_t> size = NpyHeaderSize(header);
  if (!size.ok()) return size.status();
  if (header.size() != *size) return Malformed("it ends within its header");
  const size_t preamble = PreambleSize(static_cast<uint8_t>(header[kMagic.size()]));
  absl::StatusOr<Header> literal = ParseLiteral(header.substr(preamble));
  if (!literal.ok()) return literal.status();

  absl::StatusOr<DType> dtype = ParseDescr(*literal->descr);
  if (!dtype.ok()) return dtype.status();
  absl::StatusOr<uint64_t> bytes = ByteSize(*dtype, *literal->shape);
  if (!bytes.ok()) return bytes.status();
  if (*literal->fortran_order && !SameInBothOrders(*literal->shape)) {
    return absl::InvalidArgumentError(
        "the array is in Fortran order; convert it first with numpy.ascontiguousarray(array)");
  }
  return TensorMeta{"", *dtype, *std::move(literal->shape)};
}

std::string NpyHeader(const TensorMeta& meta) {
  std::string literal =
      absl::StrCat("{'descr': '", ElementSize(meta.dtype) > 1 ? "<" : "|", Code(meta.dtype),
                   "', 'fortran_order': False, 'shape': (", absl::StrJoin(meta.shape, ", "),
                   meta.shape.size() == 1 ? ",), }" : "), }");
  const size_t used = PreambleSize(1) + literal.size() + 1;
  literal.append((kAlignment - used % kAlignment) % kAlignment, ' ');
  literal.push_back('\n');

  std::string header(kMagic);
  header += {'\x01', '\x00', static_cast<char>(literal.size() & 0xff),
             static_cast<char>(literal.size() >> 8)};
  return header + literal;
}

}  // namespace millrace
