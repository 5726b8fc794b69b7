// JSON text other than numbers.
#pragma once

#include <absl/strings/string_view.h>

#include <string>

namespace millrace {

// Appends `text` as a JSON string with its quotes.  Bytes beyond ASCII are kept, so that UTF-8
// stays UTF-8.
void AppendJsonString(absl::string_view text, std::string& out);

}  // namespace millrace
