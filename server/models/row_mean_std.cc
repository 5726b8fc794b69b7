#include "server/models/row_mean_std.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include <xtensor/xadapt.hpp>
#include <xtensor/xmath.hpp>

#include "server/core/status_macros.h"
#include "server/models/row_sums.h"

namespace millrace {
namespace {

// Row sums kept at once, on the stack: an image of more rows, even of a million, allocates nothing.
constexpr size_t kRowsAtOnce = 4096;

// The spread of the values so far, joined from pieces.
//
// Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances"
// (1979), equation 2.1, in means instead of sums.
class Spread {
 public:
  void Join(double count, double mean, double variance) {
    const double total = count_ + count;
    const double delta = mean - mean_;
    squares_ += variance * count + delta * delta * (count_ * count / total);
    mean_ += delta * (count / total);
    count_ = total;
  }

  double deviation() const { return std::sqrt(squares_ / count_); }

 private:
  double count_ = 0;
  double mean_ = 0;
  double squares_ = 0;  // of the distances from the mean
};

double DeviationOfRowMeans(const float* image, size_t rows, size_t columns) {
  Spread spread;
  std::array<double, kRowsAtOnce> buffer;
  for (size_t row = 0; row < rows; row += kRowsAtOnce) {
    const size_t count = std::min(rows - row, kRowsAtOnce);
    RowSums(image + row * columns, count, columns, buffer.data());
    const auto sums = xt::adapt(buffer.data(), count, xt::no_ownership(), std::array{count});
    const auto means = sums / static_cast<double>(columns);
    spread.Join(static_cast<double>(count), xt::mean(means)(), xt::variance(means)());
  }
  return spread.deviation();
}

class RowMeanStd final : public Model {
 public:
  const ModelSpec& spec() const override { return spec_; }

  absl::Status Run(const Request& request, Outputs& outputs) override {
    const Tensor& image = request.inputs[0];
    ASSIGN_OR_RETURN(const uint64_t elements, ElementCount(image.meta.shape));
    if (elements == 0) {
      return absl::InvalidArgumentError(absl::StrCat(
          "the image is empty, so that its rows have no mean: ", ToString(image.meta)));
    }
    const uint64_t rows = elements == 1 ? 1 : image.meta.shape[0];
    const auto* values = reinterpret_cast<const float*>(image.bytes.data());
    const auto result = static_cast<float>(DeviationOfRowMeans(values, rows, elements / rows));

    ASSIGN_OR_RETURN(const absl::Span<std::byte> out, outputs.Add({"std", DType::kFloat32, {}}));
    std::memcpy(out.data(), &result, sizeof(result));
    return absl::OkStatus();
  }

  bool RunsQuickly(const Request& request) const override {
    return InputBytes(request) <= kQuickBytes;
  }

 private:
  const ModelSpec spec_{
      .name = "row_mean_std",
      .inputs = {{.name = "image",
                  .dtype = DType::kFloat32,
                  .shape = {kAnySize, kAnySize},
                  .scalar_broadcasts = true,
                  .bare_shape = {kAnySize, 2500}}},
      .outputs = {{.name = "std", .dtype = DType::kFloat32}},
  };
};

}  // namespace

std::unique_ptr<Model> MakeRowMeanStd() { return std::make_unique<RowMeanStd>(); }

}  // namespace millrace
