// Questions by Beast's HTTP client.
#pragma once

#include <string>

#include "tests/conformance/way.h"

namespace millrace {

absl::StatusOr<Answer> AskRaw(const std::string& address, const Question& question);
absl::StatusOr<Answer> AskNpy(const std::string& address, const Question& question);
absl::StatusOr<Answer> AskJson(const std::string& address, const Question& question);

}  // namespace millrace
