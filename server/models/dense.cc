#include "server/models/dense.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "server/core/status_macros.h"

namespace millrace {
namespace {

constexpr size_t kColumns = 2500;
constexpr size_t kOutputs = 48;

// As many sums as fit the registers of any machine of the day: of some rows and some outputs at a
// time.
constexpr size_t kRowsAtOnce = 4;
constexpr size_t kOutputsAtOnce = 8;

constexpr size_t kLanes = 4;
typedef float Lanes __attribute__((vector_size(kLanes * sizeof(float))));

class Weights {
 public:
  Weights() {
    for (size_t i = 0; i < kColumns; ++i) {
      for (size_t j = 0; j < kOutputs; ++j) {
        blocks_[j / kOutputsAtOnce][i][j % kOutputsAtOnce / kLanes][j % kLanes] =
            (static_cast<float>((7 * i + 13 * j) % 31) - 15) / 1024;
      }
    }
  }

  // Writes kOutputs values for each of the rows.
  void Apply(const float* x, size_t rows, float* y) const {
    size_t row = 0;
    for (; row + kRowsAtOnce <= rows; row += kRowsAtOnce) {
      ApplyTo<kRowsAtOnce>(x + row * kColumns, y + row * kOutputs);
    }
    for (; row < rows; ++row) ApplyTo<1>(x + row * kColumns, y + row * kOutputs);
  }

 private:
  using Block = Lanes[kColumns][kOutputsAtOnce / kLanes];

  template <size_t kRows>
  void ApplyTo(const float* x, float* y) const {
    for (const Block& weights : blocks_) {
      Lanes sums[kRows][kOutputsAtOnce / kLanes] = {};
      for (size_t i = 0; i < kColumns; ++i) {
        for (size_t row = 0; row < kRows; ++row) {
          const float value = x[row * kColumns + i];
          for (size_t k = 0; k < kOutputsAtOnce / kLanes; ++k)
            sums[row][k] += value * weights[i][k];
        }
      }
      for (size_t row = 0; row < kRows; ++row) {
        std::memcpy(y + row * kOutputs, sums[row], sizeof(sums[row]));
      }
      y += kOutputsAtOnce;
    }
  }

  Block blocks_[kOutputs / kOutputsAtOnce];
};

class Rows final : public EarlyRun {
 public:
  Rows(const Weights& weights, int64_t rows) : weights_(weights), rows_(rows) {}

  absl::Status OnRows(absl::Span<const std::byte> rows, Outputs& outputs) override {
    if (y_ == nullptr) {
      ASSIGN_OR_RETURN(const absl::Span<std::byte> y,
                       outputs.Add({"y", DType::kFloat32, {rows_, kOutputs}}));
      y_ = reinterpret_cast<float*>(y.data());
    }
    const auto* const x = reinterpret_cast<const float*>(rows.data());
    const size_t here = rows.size() / (kColumns * sizeof(float));
    weights_.Apply(x + done_ * kColumns, here - done_, y_ + done_ * kOutputs);
    done_ = here;
    return absl::OkStatus();
  }

 private:
  const Weights& weights_;
  const int64_t rows_;
  float* y_ = nullptr;  // the output's
  size_t done_ = 0;
};

class Dense final : public Model {
 public:
  const ModelSpec& spec() const override { return spec_; }

  absl::Status Run(const Request& request, Outputs& outputs) override {
    const Tensor& image = request.inputs[0];
    return Rows(weights_, image.meta.shape[0]).OnRows(image.bytes, outputs);
  }

  std::unique_ptr<EarlyRun> StartEarly(const TensorMeta& image,
                                       const Parameters& parameters) override {
    const std::pair<std::string, std::string> wait = {"overlap", "false"};
    if (std::count(parameters.begin(), parameters.end(), wait) > 0) return nullptr;
    return std::make_unique<Rows>(weights_, image.shape[0]);
  }

 private:
  const ModelSpec spec_{
      .name = "dense",
      .inputs = {{.name = "image", .dtype = DType::kFloat32, .shape = {kAnySize, kColumns}}},
      .outputs = {{.name = "y", .dtype = DType::kFloat32, .shape = {kAnySize, kOutputs}}},
  };
  const Weights weights_;
};

}  // namespace

std::unique_ptr<Model> MakeDense() { return std::make_unique<Dense>(); }

}  // namespace millrace
