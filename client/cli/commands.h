// What `millrace` can be told to do.
#pragma once

#include <absl/status/status.h>
#include <millrace/client.h>

#include <string>
#include <utility>
#include <vector>

namespace millrace {

// A tensor's name, which may be empty, and its file.
using NamedFile = std::pair<std::string, std::string>;

struct PredictArguments {
  std::string url;
  std::string model;
  std::vector<NamedFile> inputs;

  // With a data type, the only input is a raw file of this type and shape; else they are .npy
  // files.
  TensorMeta raw;

  // Where outputs go.  An empty name is that of the only output.
  std::vector<NamedFile> outs;

  int repeat = 1;
  PredictOptions options;
};

absl::Status Predict(const PredictArguments& arguments);

// All models if the name is empty.
absl::Status ShowModels(const std::string& url, const std::string& name);

}  // namespace millrace
