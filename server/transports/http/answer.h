// What goes back to the client.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "server/core/slab_pool.h"
#include "server/core/tensor.h"

namespace millrace {

struct Answer {
  int status = 200;
  std::string content_type;
  std::vector<std::pair<absl::string_view, std::string>> fields = {};  // names live forever

  // The body: the text, then the tensor's bytes, sent from its slab.
  std::string text = {};
  std::optional<Tensor> tensor = {};

  // Room in the arena for the text, when it is large.
  std::unique_ptr<Slab> claim = {};

  size_t body_size() const { return text.size() + (tensor ? tensor->bytes.size() : 0); }
};

Answer JsonAnswer(std::string text);
Answer ErrorAnswer(const absl::Status& status);

// How the connection goes on, as the header says it.
enum class Persistence { kClose, kKeepAlive, kKeepAliveHttp10 };

// The status line and the header, with its empty line.
std::string FormatHead(const Answer& answer, Persistence persistence);

}  // namespace millrace
