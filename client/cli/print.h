// What the commands print.
#pragma once

#include <absl/time/time.h>
#include <absl/types/span.h>
#include <millrace/client.h>

#include <string>

namespace millrace {

// Tensors of more elements are summed up instead of printed.
inline constexpr size_t kMaxPrintedElements = 1000;

// A line for each output: "mean: float32[3] [1,2,3]".
std::string FormatPrediction(const Prediction& prediction);

// "50 requests of 30.0 MB: median 6.1 ms (4.92 GB/s), min 5.9 ms, max 7.0 ms".  Requires times.
std::string FormatTimes(absl::Span<const absl::Duration> times, uint64_t bytes);

// A line with its name, and one for each input and output.
std::string FormatModel(const ModelInfo& model);

// Writes to standard output, and tells when that is full or closed.
absl::Status Print(const std::string& text);

}  // namespace millrace
