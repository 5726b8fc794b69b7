// The ways into the server, each as a client that we did not write for it: generated gRPC stubs and
// Beast's HTTP.
#pragma once

#include <absl/status/statusor.h>

#include <functional>
#include <string>
#include <vector>

#include "proto/wire/tensor.h"

namespace millrace {

struct NamedBytes {
  TensorMeta meta;
  std::string bytes;
};

struct Question {
  std::string model;
  std::vector<NamedBytes> tensors;
};

// Outputs as the way has them: JSON has no types, so there they are float64 whatever the model
// gives.
struct Answer {
  std::vector<NamedBytes> outputs;
};

struct Way {
  std::string name;
  std::function<absl::StatusOr<Answer>(const std::string& address, const Question& question)> ask;

  bool typed = true;            // false: types are not told, in either direction (JSON)
  bool several_tensors = true;  // false: one in, one out
  bool has_bfloat16 = true;
  bool has_payload_size = true;  // true: a payload of the wrong size can be sent
};

}  // namespace millrace
