// One client of the dense layer, over a gRPC stream: what working on an image while it arrives
// saves.  Requests with and without it take turns; each answer is checked.  Reports how long they
// took, and how long from the last byte to the answer, as the server has it.
//
//   bench-overlap HOST:PORT ROWS REQUESTS
#include <absl/strings/numbers.h>
#include <absl/strings/str_split.h>
#include <millrace/client.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <vector>

#include "tests/bench/report.h"

namespace millrace::bench {
namespace {

constexpr int64_t kColumns = 2500;
constexpr int64_t kOutputs = 48;

// Any values, none of them far from 1/2.
std::vector<float> MakeImage(int64_t rows) {
  std::vector<float> image(rows * kColumns);
  for (size_t i = 0; i < image.size(); ++i) image[i] = static_cast<float>(i * 37 % 1009) / 1009;
  return image;
}

// As server/models/dense.h says, in double.
std::vector<double> ExpectedAnswer(const std::vector<float>& image) {
  std::vector<double> weights(kColumns * kOutputs);
  for (int64_t i = 0; i < kColumns; ++i) {
    for (int64_t j = 0; j < kOutputs; ++j) {
      weights[i * kOutputs + j] = static_cast<double>((7 * i + 13 * j) % 31 - 15) / 1024;
    }
  }
  std::vector<double> answer(image.size() / kColumns * kOutputs);
  for (size_t n = 0; n < image.size(); ++n) {
    double* const sums = &answer[n / kColumns * kOutputs];
    const double* const row = &weights[n % kColumns * kOutputs];
    for (int64_t j = 0; j < kOutputs; ++j) sums[j] += image[n] * row[j];
  }
  return answer;
}

void Must(bool good, const std::string& what) {
  if (good) return;
  std::fprintf(stderr, "bench-overlap: %s\n", what.c_str());
  std::exit(1);
}

void Check(const Prediction& prediction, const std::vector<double>& expected) {
  const auto answer = prediction.outputs.at(0).As<float>();
  Must(answer.ok() && answer->size() == expected.size(), "not an answer");
  for (size_t i = 0; i < expected.size(); ++i) {
    Must(std::abs((*answer)[i] - expected[i]) < 1e-3, "a wrong answer");
  }
}

// Of one step of "receive;dur=4.1, queue;dur=0.1, ...", in milliseconds.
double StepOf(const std::string& timing, const std::string& name) {
  for (const absl::string_view step : absl::StrSplit(timing, ", ")) {
    const std::vector<absl::string_view> parts = absl::StrSplit(step, ";dur=");
    double milliseconds = 0;
    if (parts[0] == name && absl::SimpleAtod(parts.at(1), &milliseconds)) return milliseconds;
  }
  Must(false, "no \"" + name + "\" in the timing: " + timing);
  return 0;
}

struct Times {
  std::vector<double> whole;
  std::vector<double> since_last_byte;
};

void Report(const char* name, const std::vector<double>& times, const char* end) {
  std::printf("\"%s\": [", name);
  for (size_t i = 0; i < times.size(); ++i) std::printf("%s%.4f", i > 0 ? ", " : "", times[i]);
  std::printf("]%s", end);
}

class Caller {
 public:
  Caller(const std::string& address, int64_t rows)
      : client_(Client::Connect(address)),
        meta_{"image", DType::kFloat32, {rows, kColumns}},
        image_(MakeImage(rows)),
        expected_(ExpectedAnswer(image_)) {
    Must(client_.ok(), client_.status().ToString());
  }

  void Call(bool overlap, Times& times) const {
    PredictOptions options;
    options.way = Way::kStream;
    if (!overlap) options.parameters = {{"overlap", "false"}};
    const TensorView view = {meta_, std::as_bytes(std::span(image_))};
    const double start = Now();
    const absl::StatusOr<Prediction> prediction = client_->Predict("dense", {view}, options);
    times.whole.push_back(Now() - start);
    Must(prediction.ok(), prediction.status().ToString());
    times.since_last_byte.push_back(StepOf(prediction->timing, "queue") +
                                    StepOf(prediction->timing, "compute"));
    Check(*prediction, expected_);
  }

 private:
  const absl::StatusOr<Client> client_;
  const TensorMeta meta_;
  const std::vector<float> image_;
  const std::vector<double> expected_;
};

int Main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: bench-overlap HOST:PORT ROWS REQUESTS\n");
    return 2;
  }
  KeepFreedMemory();
  const Caller caller(argv[1], std::atoi(argv[2]));
  Times warmup, overlap, wait;
  for (int i = 0; i < 4; ++i) caller.Call(i % 2 == 0, warmup);
  WaitForGo();
  for (int i = 0; i < std::atoi(argv[3]); ++i) {
    caller.Call(true, overlap);
    caller.Call(false, wait);
  }
  std::printf("{");
  Report("overlap_ms", overlap.whole, ", ");
  Report("overlap_since_last_byte_ms", overlap.since_last_byte, ", ");
  Report("wait_ms", wait.whole, ", ");
  Report("wait_since_last_byte_ms", wait.since_last_byte, "}\n");
  return 0;
}

}  // namespace
}  // namespace millrace::bench

int main(int argc, char** argv) { return millrace::bench::Main(argc, argv); }
