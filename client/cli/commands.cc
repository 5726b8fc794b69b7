#include "client/cli/commands.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>

#include <algorithm>

#include "client/cli/print.h"
#include "client/cli/progress_bar.h"
#include "client/cli/tensor_file.h"

namespace millrace {
namespace {

absl::StatusOr<std::vector<TensorFile>> OpenInputs(const PredictArguments& arguments) {
  std::vector<TensorFile> files;
  for (const auto& [name, path] : arguments.inputs) {
    absl::StatusOr<TensorFile> file =
        arguments.raw.dtype == DType::kUnspecified ? OpenNpy(path) : OpenRaw(path, arguments.raw);
    if (!file.ok()) return file.status();
    file->tensor.meta.name = name;
    files.push_back(*std::move(file));
  }
  return files;
}

// Sends the request `repeat` times, and keeps the last answer and how long each took.
class Run {
 public:
  Run(const Client& client, const PredictArguments& arguments, absl::Span<const TensorView> inputs)
      : client_(client), arguments_(arguments), inputs_(inputs) {
    for (const TensorView& input : inputs) bytes_ += input.bytes.size();
    progress_.total = bytes_ * arguments.repeat;
    progress_.requests = arguments.repeat;
  }

  absl::StatusOr<Prediction> All() {
    PredictOptions options = arguments_.options;
    options.progress = [this](uint64_t sent, uint64_t) { Show(sent); };
    absl::StatusOr<Prediction> prediction;
    for (int i = 0; i < arguments_.repeat; ++i) {
      const absl::Time start = absl::Now();
      prediction = client_.Predict(arguments_.model, inputs_, options);
      if (!prediction.ok()) return prediction;
      times_.push_back(absl::Now() - start);
      ++progress_.done;
      Show(0);
    }
    bar_.reset();  // Off the terminal, before anything is printed.
    return prediction;
  }

  std::string Times() const { return FormatTimes(times_, bytes_); }

 private:
  void Show(uint64_t sent) {
    progress_.sent = progress_.done * bytes_ + sent;
    progress_.elapsed = absl::Now() - start_;
    bar_->Update(progress_);
  }

  const Client& client_;
  const PredictArguments& arguments_;
  const absl::Span<const TensorView> inputs_;
  const absl::Time start_ = absl::Now();
  uint64_t bytes_ = 0;
  Progress progress_;
  std::optional<ProgressBar> bar_{std::in_place};
  std::vector<absl::Duration> times_;
};

absl::StatusOr<const OutputTensor*> FindOutput(const Prediction& prediction,
                                               const std::string& name) {
  const auto& outputs = prediction.outputs;
  if (name.empty()) {
    if (outputs.size() == 1) return &outputs[0];
    return absl::InvalidArgumentError(
        absl::StrCat("the model gave ", outputs.size(),
                     " outputs; write --out NAME=FILE for each that you want"));
  }
  const auto found = std::find_if(outputs.begin(), outputs.end(), [&](const OutputTensor& output) {
    return output.meta.name == name;
  });
  if (found != outputs.end()) return &*found;
  return absl::NotFoundError(absl::StrCat("the model gave no output \"", name, "\""));
}

absl::Status WriteOutputs(const Prediction& prediction, absl::Span<const NamedFile> outs) {
  for (const auto& [name, path] : outs) {
    absl::StatusOr<const OutputTensor*> output = FindOutput(prediction, name);
    if (!output.ok()) return output.status();
    const absl::Status status = WriteNpy(path, (*output)->view());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Predict(const PredictArguments& arguments) {
  absl::StatusOr<std::vector<TensorFile>> files = OpenInputs(arguments);
  if (!files.ok()) return files.status();
  std::vector<TensorView> inputs;
  for (const TensorFile& file : *files) inputs.push_back(file.tensor);

  absl::StatusOr<Client> client = Client::Connect(arguments.url);
  if (!client.ok()) return client.status();
  Run run(*client, arguments, inputs);
  absl::StatusOr<Prediction> prediction = run.All();
  if (!prediction.ok()) return prediction.status();

  const absl::Status written = WriteOutputs(*prediction, arguments.outs);
  if (!written.ok()) return written;
  return Print(FormatPrediction(*prediction) + (arguments.repeat > 1 ? run.Times() : ""));
}

absl::Status ShowModels(const std::string& url, const std::string& name) {
  absl::StatusOr<Client> client = Client::Connect(url);
  if (!client.ok()) return client.status();
  if (!name.empty()) {
    absl::StatusOr<ModelInfo> model = client->GetModel(name);
    return model.ok() ? Print(FormatModel(*model)) : model.status();
  }
  absl::StatusOr<std::vector<ModelInfo>> models = client->ListModels();
  if (!models.ok()) return models.status();
  std::string text;
  for (const ModelInfo& model : *models) text += FormatModel(model);
  return Print(text);
}

}  // namespace millrace
