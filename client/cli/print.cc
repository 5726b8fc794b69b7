#include "client/cli/print.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <algorithm>

#include "client/cli/progress_bar.h"
#include "proto/wire/text.h"

namespace millrace {
namespace {

constexpr size_t kSampleSize = 8;

void AppendSample(const TensorView& tensor, std::string& out) {
  absl::StrAppend(&out, FormatBytes(static_cast<double>(tensor.bytes.size())), ", starting with ");
  for (size_t i = 0; i < kSampleSize; ++i) {
    AppendElement(tensor.meta.dtype, tensor.bytes.data(), i, out);
    out += ", ";
  }
  out += "...; --out FILE.npy writes all of it";
}

void AppendTensor(const TensorView& tensor, std::string& out) {
  absl::StrAppend(&out, tensor.meta.name.empty() ? "output" : Printable(tensor.meta.name), ": ",
                  Name(tensor.meta.dtype), ToString(tensor.meta.shape), " ");
  if (tensor.bytes.size() > kMaxPrintedElements * ElementSize(tensor.meta.dtype)) {
    AppendSample(tensor, out);
  } else {
    AppendJson(tensor, out);
  }
  out += '\n';
}

std::string FormatInfo(const TensorInfo& info) {
  const auto size = [](std::string* out, int64_t n) {
    n == kAnySize ? absl::StrAppend(out, "any") : absl::StrAppend(out, n);
  };
  const bool any_type = info.meta.dtype == DType::kUnspecified;
  return absl::StrCat(Printable(info.meta.name), ": ", any_type ? "any" : Name(info.meta.dtype),
                      "[", info.any_shape ? "..." : absl::StrJoin(info.meta.shape, ",", size), "]",
                      info.scalar_broadcasts ? ", or one element for all" : "");
}

std::string FormatMilliseconds(absl::Duration time) {
  return absl::StrFormat("%.2f ms", absl::ToDoubleMilliseconds(time));
}

}  // namespace

std::string FormatPrediction(const Prediction& prediction) {
  std::string out;
  for (const OutputTensor& output : prediction.outputs) AppendTensor(output.view(), out);
  return out;
}

std::string FormatTimes(absl::Span<const absl::Duration> times, uint64_t bytes) {
  std::vector<absl::Duration> sorted(times.begin(), times.end());
  std::sort(sorted.begin(), sorted.end());
  const size_t half = sorted.size() / 2;
  const absl::Duration median =
      sorted.size() % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  return absl::StrFormat("%d requests of %s: median %s (%.2f GB/s), min %s, max %s\n",
                         sorted.size(), FormatBytes(static_cast<double>(bytes)),
                         FormatMilliseconds(median),
                         static_cast<double>(bytes) / absl::ToDoubleSeconds(median) / 1e9,
                         FormatMilliseconds(sorted.front()), FormatMilliseconds(sorted.back()));
}

std::string FormatModel(const ModelInfo& model) {
  std::string out = absl::StrCat(Printable(model.name), " ", Printable(model.version),
                                 model.ready ? "\n" : " (not ready)\n");
  if (model.any_tensors) absl::StrAppend(&out, "  in   any tensors\n");
  for (const TensorInfo& input : model.inputs)
    absl::StrAppend(&out, "  in   ", FormatInfo(input), "\n");
  for (const TensorInfo& output : model.outputs)
    absl::StrAppend(&out, "  out  ", FormatInfo(output), "\n");
  return out;
}

absl::Status Print(const std::string& text) {
  if (::fwrite(text.data(), 1, text.size(), stdout) == text.size() && ::fflush(stdout) == 0) {
    return absl::OkStatus();
  }
  return absl::UnknownError(absl::StrCat("cannot write to standard output: ", ::strerror(errno)));
}

}  // namespace millrace
