#include "server/core/model.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include <algorithm>
#include <cstdlib>
#include <new>

#include "server/core/assembler.h"
#include "server/core/status_macros.h"

namespace millrace {
namespace {

// Outputs up to this size have memory of their own: a scalar needs no slab, and no room in the
// arena.
constexpr uint64_t kSmallOutput = 64 << 10;

std::string Expected(const ModelSpec& spec) {
  return absl::StrJoin(spec.inputs, ", ", [](std::string* out, const TensorSpec& input) {
    absl::StrAppend(out, ToString(input));
  });
}

bool IsOneElement(const Shape& shape) {
  return std::all_of(shape.begin(), shape.end(), [](int64_t size) { return size == 1; });
}

bool TypeFits(const TensorSpec& spec, DType dtype) {
  return spec.dtype == DType::kUnspecified || spec.dtype == dtype;
}

bool ShapeFits(const TensorSpec& spec, const Shape& shape) {
  if (spec.any_shape || (spec.scalar_broadcasts && IsOneElement(shape))) return true;
  return std::equal(
      spec.shape.begin(), spec.shape.end(), shape.begin(), shape.end(),
      [](int64_t expected, int64_t size) { return expected == kAnySize || expected == size; });
}

absl::Status CheckInput(const ModelSpec& model, const TensorMeta& tensor) {
  const auto spec =
      std::find_if(model.inputs.begin(), model.inputs.end(),
                   [&](const TensorSpec& input) { return input.name == tensor.name; });
  if (spec == model.inputs.end()) {
    return absl::InvalidArgumentError(absl::StrCat("model \"", model.name, "\" has no input \"",
                                                   Printable(tensor.name), "\"; it takes ",
                                                   Expected(model)));
  }
  if (!TypeFits(*spec, tensor.dtype)) {
    return absl::InvalidArgumentError(absl::StrCat("input \"", spec->name, "\" of model \"",
                                                   model.name, "\" is ", Name(spec->dtype),
                                                   ", but ", Name(tensor.dtype), " was sent"));
  }
  if (!ShapeFits(*spec, tensor.shape)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "input \"", spec->name, "\" of model \"", model.name, "\" has the shape ",
        ToString(spec->shape), " (-1 is any size), but ", ToString(tensor.shape), " was sent"));
  }
  return absl::OkStatus();
}

Shape BareShape(const TensorSpec& input) {
  if (!input.bare_shape.empty()) return input.bare_shape;
  return input.any_shape ? Shape{kAnySize} : input.shape;
}

absl::Status CheckNamesDiffer(absl::Span<const TensorMeta> tensors) {
  std::vector<absl::string_view> names;
  for (const TensorMeta& tensor : tensors) names.push_back(tensor.name);
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice == names.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tensor \"", Printable(*twice), "\" is sent twice"));
}

}  // namespace

std::string ToString(const TensorSpec& spec) {
  if (spec.dtype == DType::kUnspecified || spec.any_shape) {
    return absl::StrCat(spec.name, ": ",
                        spec.dtype == DType::kUnspecified ? "any" : Name(spec.dtype),
                        spec.any_shape ? "[...]" : ToString(spec.shape));
  }
  return ToString(TensorMeta{spec.name, spec.dtype, spec.shape});
}

bool Fits(const TensorSpec& spec, const TensorMeta& tensor) {
  return TypeFits(spec, tensor.dtype) && ShapeFits(spec, tensor.shape);
}

absl::StatusOr<absl::Span<std::byte>> Outputs::Add(TensorMeta meta) {
  ASSIGN_OR_RETURN(const uint64_t size, ByteSize(meta.dtype, meta.shape));
  std::byte* data = nullptr;
  std::shared_ptr<const void> owner;
  const Slab* holder = nullptr;
  if (size <= kSmallOutput) {
    const std::align_val_t alignment{kTensorAlignment};
    data = static_cast<std::byte*>(operator new(std::max<uint64_t>(size, 1), alignment));
    owner = std::shared_ptr<const void>(
        data, [](const void* p) { operator delete(const_cast<void*>(p), alignment); });
  } else {
    std::shared_ptr<Slab> slab = pool_.Promise(size);
    if (slab == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no room in the server's memory for an output of ", size, " bytes; try again later"));
    }
    RETURN_IF_ERROR(slab->Map());
    data = slab->data();
    holder = slab.get();
    owner = std::move(slab);
  }
  tensors_.push_back(
      {{std::move(meta), absl::MakeConstSpan(data, size)}, std::move(owner), holder});
  return absl::MakeSpan(data, size);
}

uint64_t InputBytes(const Request& request) {
  uint64_t size = 0;
  for (const Tensor& input : request.inputs) size += input.bytes.size();
  return size;
}

absl::Status CheckInputs(const ModelSpec& spec, std::vector<TensorMeta>& tensors) {
  if (spec.any_tensors) return CheckNamesDiffer(tensors);
  if (tensors.size() != spec.inputs.size()) {
    return absl::InvalidArgumentError(absl::StrCat("model \"", spec.name, "\" takes ",
                                                   spec.inputs.size(), " tensors (", Expected(spec),
                                                   "), but ", tensors.size(), " were sent"));
  }
  if (tensors.size() == 1 && tensors[0].name.empty()) tensors[0].name = spec.inputs[0].name;
  for (const TensorMeta& tensor : tensors) RETURN_IF_ERROR(CheckInput(spec, tensor));
  return CheckNamesDiffer(tensors);
}

absl::StatusOr<TensorMeta> DescribeBareBytes(const ModelSpec& spec, uint64_t size) {
  if (spec.any_tensors) return TensorMeta{"", DType::kUint8, {static_cast<int64_t>(size)}};
  if (spec.inputs.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat("model \"", spec.name, "\" takes ",
                                                   spec.inputs.size(), " tensors (", Expected(spec),
                                                   "); send them as JSON or over gRPC"));
  }
  const TensorSpec& input = spec.inputs[0];
  const DType dtype = input.dtype == DType::kUnspecified ? DType::kFloat32 : input.dtype;
  const uint64_t element = ElementSize(dtype);
  const Shape bare_shape = BareShape(input);
  TensorMeta meta{input.name, dtype, bare_shape};
  if (input.scalar_broadcasts && size == element) {
    meta.shape.clear();
    return meta;
  }
  const auto any = std::find(meta.shape.begin(), meta.shape.end(), kAnySize);
  if (any != meta.shape.end()) {
    *any = 1;
    ASSIGN_OR_RETURN(const uint64_t row, ByteSize(meta.dtype, meta.shape));
    *any = row == 0 ? 0 : static_cast<int64_t>(size / row);
  }
  const absl::StatusOr<uint64_t> expected = ByteSize(meta.dtype, meta.shape);
  if (expected.ok() && *expected == size) return meta;
  return absl::InvalidArgumentError(absl::StrCat(
      size, " bytes are no whole ", ToString(TensorMeta{input.name, dtype, bare_shape}),
      " (-1 is any size); say what they are, as in ?shape=3000,2500&dtype=float32"));
}

}  // namespace millrace
