#include "server/transports/http/json_text.h"

#include <absl/strings/str_format.h>

#include <charconv>
#include <cstdint>

namespace millrace {
namespace {

// Past one character of UTF-8 beyond ASCII, as RFC 3629 has it; null if it is broken.
const char* SkipUtf8(const char* at) {
  constexpr uint32_t kLeast[] = {0, 0x80, 0x800, 0x10000};
  const auto lead = static_cast<unsigned char>(*at++);
  if (lead < 0xc0 || lead >= 0xf8) return nullptr;
  const int more = lead < 0xe0 ? 1 : lead < 0xf0 ? 2 : 3;
  uint32_t code = lead & (0x3f >> more);
  for (int i = 0; i < more; ++i) {
    if ((*at & 0xc0) != 0x80) return nullptr;
    code = code << 6 | (*at++ & 0x3f);
  }
  const bool surrogate = code >= 0xd800 && code < 0xe000;
  return code < kLeast[more] || code > 0x10ffff || surrogate ? nullptr : at;
}

void AppendUtf8(uint32_t code, std::string& out) {
  if (code < 0x80) {
    out += static_cast<char>(code);
    return;
  }
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  out += static_cast<char>((0xff00 >> (more + 1) & 0xff) | code >> 6 * more);
  for (int i = more - 1; i >= 0; --i) out += static_cast<char>(0x80 | (code >> 6 * i & 0x3f));
}

// Reads "\uXXXX"; null if there is none.
const char* ReadUnit(const char* at, uint32_t& unit) {
  if (at[0] != '\\' || at[1] != 'u') return nullptr;
  const auto result = std::from_chars(at + 2, at + 6, unit, 16);
  return result.ptr == at + 6 ? result.ptr : nullptr;
}

// Reads one or, for what is beyond 16 bits, two of "\uXXXX".
const char* ReadUnits(const char* at, std::string& out) {
  uint32_t code = 0;
  at = ReadUnit(at, code);
  if (at == nullptr || (code >= 0xdc00 && code < 0xe000)) return nullptr;
  if (code >= 0xd800 && code < 0xdc00) {
    uint32_t low = 0;
    at = ReadUnit(at, low);
    if (at == nullptr || low < 0xdc00 || low >= 0xe000) return nullptr;
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  AppendUtf8(code, out);
  return at;
}

const char* ReadEscape(const char* at, std::string& out) {
  constexpr absl::string_view kLetters = "\"\\/bfnrt";
  constexpr absl::string_view kMeanings = "\"\\/\b\f\n\r\t";
  if (at[1] == 'u') return ReadUnits(at, out);
  const size_t letter = kLetters.find(at[1]);
  if (letter == absl::string_view::npos) return nullptr;
  out += kMeanings[letter];
  return at + 2;
}

// Past the closing quote of any string, or to the end of the text.
const char* SkipString(const char* at) {
  for (++at; *at != '"' && *at != '\0'; ++at) {
    if (*at == '\\' && at[1] != '\0') ++at;
  }
  return *at == '"' ? at + 1 : at;
}

}  // namespace

void AppendJsonString(absl::string_view text, std::string& out) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      absl::StrAppendFormat(&out, "\\u%04x", byte);
    } else {
      out += c;
    }
  }
  out += '"';
}

absl::string_view JsonToken(const char* at) {
  const char* end = at;
  if (*at == '"') {
    end = SkipString(at);
  } else {
    while (!EndsJsonToken(*end)) ++end;
    if (end == at && *at != '\0') ++end;
  }
  return {at, static_cast<size_t>(end - at)};
}

const char* ReadJsonString(const char* at, std::string& out) {
  for (++at; at != nullptr && *at != '"';) {
    const char* const first = at;
    const auto byte = static_cast<unsigned char>(*at);
    if (byte < 0x20) return nullptr;
    if (byte == '\\') {
      at = ReadEscape(at, out);
      continue;
    }
    at = byte < 0x80 ? at + 1 : SkipUtf8(at);
    if (at != nullptr) out.append(first, at);
  }
  return at == nullptr ? nullptr : at + 1;
}

}  // namespace millrace
