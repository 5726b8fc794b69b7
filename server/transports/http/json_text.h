// JSON text other than numbers.
//
// What is read ends with a NUL, which is no part of any JSON, so that nothing here looks for an
// end.
#pragma once

#include <absl/strings/string_view.h>

#include <string>

namespace millrace {

// Appends `text` as a JSON string with its quotes.  Bytes beyond ASCII are kept, so that UTF-8
// stays UTF-8.
void AppendJsonString(absl::string_view text, std::string& out);

// The first byte at or behind `at` that is no space.
inline const char* SkipJsonSpace(const char* at) {
  while (*at == ' ' || *at == '\n' || *at == '\r' || *at == '\t') ++at;
  return at;
}

// Whether a number, or a word such as true, ends before this byte.
inline bool EndsJsonToken(char c) {
  switch (c) {
    case ' ':
    case '\n':
    case '\r':
    case '\t':
    case ',':
    case ':':
    case '[':
    case ']':
    case '{':
    case '}':
    case '"':
    case '\0':
      return true;
    default:
      return false;
  }
}

// What begins at `at`: all of a number, word or string, whatever it holds; of anything else that
// may be written there one byte.  Empty at the end of the text.
absl::string_view JsonToken(const char* at);

// Reads the string whose opening quote is at `at`, without escapes, and as valid UTF-8.  Returns
// what is behind its closing quote; null if it is broken.
const char* ReadJsonString(const char* at, std::string& out);

}  // namespace millrace
