// Questions by generated gRPC stubs.
#pragma once

#include <cstddef>
#include <string>

#include "tests/conformance/way.h"

namespace millrace {

absl::StatusOr<Answer> AskUnary(const std::string& address, const Question& question);

// In pieces of `piece` bytes; 0: the whole payload as one.
absl::StatusOr<Answer> AskStream(const std::string& address, const Question& question,
                                 size_t piece);
absl::StatusOr<Answer> AskDuplex(const std::string& address, const Question& question,
                                 size_t piece);

}  // namespace millrace
