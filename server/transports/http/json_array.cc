#include "server/transports/http/json_array.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "server/core/status_macros.h"
#include "server/transports/http/json_number.h"
#include "server/transports/http/json_text.h"

namespace millrace {
namespace {

bool EndsNumbers(char c) { return c == '"' || c == '{' || c == '}'; }

// Text before a quote or a brace.
struct Stretch {
  size_t size = 0;
  uint64_t commas = 0;
};

// Goes through the text in blocks of a fixed size, which compilers make vector code of.
Stretch LookAt(absl::string_view text) {
  constexpr size_t kBlock = 64;
  Stretch stretch;
  for (; text.size() - stretch.size >= kBlock; stretch.size += kBlock) {
    uint8_t commas = 0;
    uint8_t ends = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      const char c = text.data()[stretch.size + i];
      commas += static_cast<uint8_t>(c == ',');
      ends |= static_cast<uint8_t>(EndsNumbers(c));
    }
    if (ends != 0) break;
    stretch.commas += commas;
  }
  for (; stretch.size < text.size() && !EndsNumbers(text[stretch.size]); ++stretch.size) {
    stretch.commas += text[stretch.size] == ',' ? 1 : 0;
  }
  return stretch;
}

}  // namespace

uint64_t JsonNest::Stride() const {
  if (!ranked || shape.empty()) return 0;
  uint64_t stride = 1;
  for (size_t i = 1; i < shape.size(); ++i) {
    if (shape[i] == kAnySize) return 0;
    stride *= static_cast<uint64_t>(shape[i]);
  }
  return stride;
}

JsonReach MeasureReach(const char* at, const char* end, size_t step) {
  JsonReach reach;
  uint64_t commas = 0;
  const char* from = at;
  while (true) {
    const Stretch stretch = LookAt({from, std::min(step, static_cast<size_t>(end - from))});
    const void* const comma = std::memchr(from, ',', stretch.size);
    if (from != at && comma != nullptr) {
      reach.marks.push_back({static_cast<const char*>(comma), commas + 1});
    }
    commas += stretch.commas;
    from += stretch.size;
    if (stretch.size < step) break;
  }
  const absl::string_view text(at, static_cast<size_t>(from - at));
  reach.most = std::min<uint64_t>(commas, text.size() / 2) + 1;
  // With more commas than there can be elements, none of them tells an element.
  if (commas >= reach.most) reach.marks.clear();
  // A comma behind the value is no mark.
  const size_t last = text.rfind(']');
  while (!reach.marks.empty() &&
         (last == absl::string_view::npos || reach.marks.back().at > at + last)) {
    reach.marks.pop_back();
  }
  return reach;
}

JsonNest MeasureNest(const char* at, const char* end) {
  JsonNest nest;
  for (; *at == '['; at = SkipJsonSpace(at + 1)) {
    if (nest.shape.size() == kMaxRank) return {};
    nest.shape.push_back(kAnySize);
  }
  if (*at == ']') return {};
  uint64_t commas = 0;
  uint64_t elements = 1;  // in a value of the array at `depth`
  for (size_t depth = nest.shape.size(); depth > 1;) {
    const void* const found = std::memchr(at, ']', static_cast<size_t>(end - at));
    if (found == nullptr) return {};
    const char* const close = static_cast<const char*>(found);
    commas += static_cast<uint64_t>(std::count(at, close, ','));
    size_t outer = nest.shape.size();
    for (at = close; *at == ']' && outer > 0; at = SkipJsonSpace(at + 1)) --outer;
    for (; depth > 1 && depth > outer; --depth) {
      nest.shape[depth - 1] = static_cast<int64_t>((commas + 1) / elements);
      if ((commas + 1) % elements != 0) return {};
      elements = commas + 1;
    }
  }
  nest.ranked = true;
  return nest;
}

// ---- the reader

void JsonArrayReader::Jump(const char* at, uint64_t element) {
  at_ = SkipJsonSpace(at + 1);
  element_ = element;
  for (depth_ = nest_.shape.size(); depth_ > 1; --depth_) {
    const auto size = static_cast<uint64_t>(nest_.shape[depth_ - 1]);
    counts_[depth_ - 1] = element % size;
    element /= size;
  }
  counts_[0] = element;
  // Arrays that begin with the element have yet to be opened.
  depth_ = nest_.shape.size();
  while (depth_ > 1 && counts_[depth_ - 1] == 0) --depth_;
}

absl::Status JsonArrayReader::Read() {
  while (true) {
    RETURN_IF_ERROR(CheckRoom());
    if (*at_ == '[' && (!nest_.ranked || depth_ < nest_.shape.size())) {
      RETURN_IF_ERROR(Open());
      if (*at_ != ']') continue;
      nest_.ranked = true;
    } else {
      if (element_ == stop_) return absl::OkStatus();
      RETURN_IF_ERROR(TakeElements());
    }
    while (depth_ > 0 && *at_ == ']') RETURN_IF_ERROR(Close());
    done_ = depth_ == 0;
    if (done_) return absl::OkStatus();
    if (*at_ != ',') return Fail("the JSON is broken: , or ] is expected");
    at_ = SkipJsonSpace(at_ + 1);
  }
}

// For one more value in the array.
absl::Status JsonArrayReader::CheckRoom() const {
  if (depth_ == 0) return absl::OkStatus();
  const int64_t size = nest_.shape[depth_ - 1];
  if (size == kAnySize || counts_[depth_ - 1] < static_cast<uint64_t>(size)) {
    return absl::OkStatus();
  }
  return Fail(absl::StrCat("one more than the ", size, " elements of the arrays before"));
}

absl::Status JsonArrayReader::Open() {
  if (depth_ == kMaxRank) return Fail(absl::StrCat("arrays are nested deeper than ", kMaxRank));
  if (!nest_.ranked) nest_.shape.push_back(kAnySize);
  counts_[depth_++] = 0;
  at_ = SkipJsonSpace(at_ + 1);
  return absl::OkStatus();
}

absl::Status JsonArrayReader::Close() {
  const auto count = static_cast<int64_t>(counts_[--depth_]);
  int64_t& size = nest_.shape[depth_];
  if (size == kAnySize) size = count;
  if (size != count) {
    return Fail(absl::StrCat(count, " elements where the arrays before have ", size));
  }
  if (depth_ > 0) ++counts_[depth_ - 1];
  at_ = SkipJsonSpace(at_ + 1);
  return absl::OkStatus();
}

// One, or the next of an array's as far as they are plain.
absl::Status JsonArrayReader::TakeElements() {
  nest_.ranked = true;
  if (depth_ < nest_.shape.size()) {
    return Fail(
        absl::StrCat("an array of ", nest_.shape[depth_], " elements is expected, as before"));
  }
  uint64_t count = 0;
  if (options_.pass == Pass::kValues) {
    at_ = ReadElements(at_, options_.dtype, Room(), Out(), count);
  }
  if (count == 0) {
    const absl::string_view token = JsonToken(at_);
    RETURN_IF_ERROR(TakeElement(token));
    at_ += token.size();
    count = 1;
  }
  element_ += count;
  if (depth_ > 0) counts_[depth_ - 1] += count;
  at_ = SkipJsonSpace(at_);
  return absl::OkStatus();
}

// Elements that may come before this array ends, or Read() returns.
uint64_t JsonArrayReader::Room() const {
  if (depth_ == 0) return 1;
  const int64_t size = nest_.shape.back();
  const uint64_t left = stop_ - element_;
  return size == kAnySize ? left
                          : std::min(left, static_cast<uint64_t>(size) - counts_[depth_ - 1]);
}

std::byte* JsonArrayReader::Out() const {
  return options_.out + element_ * ElementSize(options_.dtype);
}

absl::Status JsonArrayReader::TakeElement(absl::string_view token) {
  if (token.empty()) return Fail("the JSON is broken: it ends before a value");
  if (options_.pass == Pass::kShapes) return absl::OkStatus();
  if (options_.pass == Pass::kTypes) return TakeType(token);
  const absl::Status status = ParseElement(token, options_.dtype, Out());
  return status.ok() ? status : Fail(status.message());
}

absl::Status JsonArrayReader::TakeType(absl::string_view token) {
  const DType type = DetectType(token);
  if (type == DType::kUnspecified) return Fail(absl::StrCat(Printable(token, 32), " is no number"));
  DType& known = options_.dtype;
  if (known == DType::kUnspecified) known = type;
  if (known == type) return absl::OkStatus();
  if (known == DType::kBool || type == DType::kBool) return Fail("booleans and numbers are mixed");
  known = std::max(known, type);  // int64, uint64, float32
  return absl::OkStatus();
}

absl::Status JsonArrayReader::Fail(absl::string_view message) const {
  std::string place(options_.place);
  for (size_t i = 0; i < depth_; ++i) absl::StrAppend(&place, "[", counts_[i], "]");
  return absl::InvalidArgumentError(absl::StrCat(place, ": ", message));
}

}  // namespace millrace
