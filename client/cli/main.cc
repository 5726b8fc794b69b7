// millrace: predictions from the command line.
//
// Exit status: 0, 1 when something failed, 2 when the arguments are wrong.

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <signal.h>
#include <stdio.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "client/cli/commands.h"

namespace millrace {
namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

NamedFile ParseNamedFile(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return {"", text};
  return {text.substr(0, equals), text.substr(equals + 1)};
}

// A server's message may hold anything; a terminal shall not obey it.
std::string OneLine(absl::string_view text) {
  std::string line(text);
  std::replace_if(
      line.begin(), line.end(), [](unsigned char c) { return c < ' ' || c == 0x7f; }, ' ');
  return line;
}

// What was given as text and has to be understood.
struct PredictTexts {
  std::string file;
  std::vector<std::string> inputs;
  std::vector<std::string> outs;
  std::string shape;
  std::string dtype;
  double timeout_s = 0;
  std::vector<std::string> parameters;
  bool unary = false, stream = false, http = false;
};

Way WayOf(const PredictTexts& texts) {
  if (texts.unary) return Way::kUnary;
  if (texts.stream) return Way::kStream;
  return texts.http ? Way::kHttp : Way::kDuplex;
}

TensorMeta ParseRaw(const PredictTexts& texts) {
  const std::optional<DType> dtype = ParseDType(texts.dtype);
  if (!dtype)
    throw CLI::ValidationError(
        "--dtype", absl::StrCat(texts.dtype, " is none of bool, int8, ..., float32, float64"));
  const absl::StatusOr<Shape> shape = ParseShape(texts.shape);
  if (!shape.ok()) throw CLI::ValidationError("--shape", std::string(shape.status().message()));
  return {"", *dtype, *shape};
}

void Understand(const PredictTexts& texts, PredictArguments& arguments) {
  if (!texts.file.empty()) arguments.inputs.emplace_back("", texts.file);
  for (const std::string& input : texts.inputs) arguments.inputs.push_back(ParseNamedFile(input));
  if (arguments.inputs.empty())
    throw CLI::ValidationError("predict", "name a FILE, or --input NAME=FILE");
  for (const std::string& out : texts.outs) arguments.outs.push_back(ParseNamedFile(out));
  if (!texts.dtype.empty()) {
    if (arguments.inputs.size() > 1)
      throw CLI::ValidationError("--dtype", "several inputs have to be .npy files");
    arguments.raw = ParseRaw(texts);
  }
  for (const std::string& parameter : texts.parameters)
    arguments.options.parameters.push_back(ParseNamedFile(parameter));
  if (texts.timeout_s > 0) arguments.options.timeout = absl::Seconds(texts.timeout_s);
  arguments.options.way = WayOf(texts);
}

void AddUrl(CLI::App& command, std::string& url) {
  command.add_option("--url", url, "The server: HOST:PORT or unix:/path")->capture_default_str();
}

void AddPredict(CLI::App& app, PredictArguments& arguments, PredictTexts& texts) {
  CLI::App* const command = app.add_subcommand("predict", "Run a model on tensors from files");
  AddUrl(*command, arguments.url);
  command->add_option("-m,--model", arguments.model, "The model; else the server's default");
  command->add_option("--version", arguments.options.version, "Its version; else the latest");
  command->add_option("FILE", texts.file, "The only input, a .npy file");
  command->add_option("--input", texts.inputs, "An input, as NAME=FILE.npy; again for each")
      ->allow_extra_args(false);
  CLI::Option* const shape = command->add_option(
      "--shape", texts.shape, "FILE holds raw elements of this shape, such as 3000,2500");
  CLI::Option* const dtype =
      command->add_option("--dtype", texts.dtype, "and of this type, such as float32");
  shape->needs(dtype);
  dtype->needs(shape);
  command
      ->add_option("-o,--out", texts.outs,
                   "Write the output to this .npy file; NAME=FILE for each of several")
      ->allow_extra_args(false);
  command->add_option("--parameter", texts.parameters, "A parameter for the model, as KEY=VALUE")
      ->allow_extra_args(false);
  command->add_option("--request-id", arguments.options.request_id, "Stands in the server's log");
  command
      ->add_option("--repeat", arguments.repeat,
                   "Send it so many times, and print how long it took")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--timeout", texts.timeout_s, "Seconds for each request")
      ->check(CLI::PositiveNumber);
  CLI::Option* const unary =
      command->add_flag("--unary", texts.unary, "One gRPC message each way, in place of streams");
  CLI::Option* const stream = command->add_flag("--stream", texts.stream,
                                                "A gRPC stream upwards, the answer in one message");
  CLI::Option* const http =
      command->add_flag("--http", texts.http, "An HTTP POST, in place of gRPC");
  stream->excludes(unary);
  http->excludes(unary)->excludes(stream);
  command->final_callback([&] { Understand(texts, arguments); });
}

int Main(int argc, char** argv) {
  CLI::App app("Predictions on large tensors, from a Millrace server.", "millrace");
  app.require_subcommand(1);
  app.failure_message([](const CLI::App*, const CLI::Error& error) {
    return absl::StrCat("millrace: ", error.what(), "; see millrace --help\n");
  });
  PredictArguments arguments;
  arguments.url = "127.0.0.1:8000";
  PredictTexts texts;
  AddPredict(app, arguments, texts);
  CLI::App* const models = app.add_subcommand("models", "List the models, with inputs and outputs");
  std::string name;
  AddUrl(*models, arguments.url);
  models->add_option("NAME", name, "Only this one");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }

  const absl::Status status =
      models->parsed() ? ShowModels(arguments.url, name) : Predict(arguments);
  if (status.ok()) return 0;
  absl::FPrintF(stderr, "millrace: %s\n", OneLine(status.message()));
  return kFailed;
}

}  // namespace
}  // namespace millrace

int main(int argc, char** argv) {
  ::signal(SIGPIPE, SIG_IGN);  // A closed pipe is a write error.
  millrace::KeepFreedMemory();
  return millrace::Main(argc, argv);
}
