// A client for Millrace servers: sends large tensors without copying them.
//
//   auto client = millrace::Client::Connect("127.0.0.1:8000");
//   if (!client.ok()) return client.status();
//   const millrace::TensorMeta image = {"image", millrace::DType::kFloat32, {3000, 2500}};
//   auto prediction = client->Predict("row_mean_std", {{image, std::as_bytes(pixels)}});
//   if (!prediction.ok()) return prediction.status();
//   absl::Span<const float> result = *prediction->outputs[0].As<float>();
//
// A program that predicts more than once calls millrace::KeepFreedMemory() at the start of main.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>
#include <absl/types/span.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "proto/wire/dtype.h"
#include "proto/wire/tensor.h"

namespace millrace {

// How a prediction travels.
enum class Way {
  kDuplex,  // gRPC, pieces both ways: tensors of any size
  kStream,  // gRPC, pieces upwards and the answer in one message
  kUnary,   // gRPC, one message each way, at most 2 GiB; the server bounds them further
  kHttp,    // HTTP/1.1 POST of raw bytes: one input, one output, no parameters
};

struct PredictOptions {
  Way way = Way::kDuplex;

  // Of the model; empty for the latest.
  std::string version;

  // Comes back in the prediction and stands in the server's log.
  std::string request_id;

  // For the model.
  std::vector<std::pair<std::string, std::string>> parameters;

  // For the whole call; DEADLINE_EXCEEDED after it.
  absl::Duration timeout = absl::InfiniteDuration();

  // Called from the thread in Predict() as bytes go out, with how many did and how many will.
  std::function<void(uint64_t sent, uint64_t total)> progress;

  // Asking it to stop, from any thread, ends the call with CANCELLED.
  std::stop_token stop;
};

// A tensor that owns its bytes.
struct OutputTensor {
  TensorMeta meta;
  std::unique_ptr<std::byte[]> data;  // little-endian, row-major
  size_t size = 0;

  // Valid as long as this tensor.
  TensorView view() const { return {meta, {data.get(), size}}; }

  // The elements, valid as long as this tensor; uint16_t reads the bits of both 16-bit floats.
  // INVALID_ARGUMENT when the tensor is of another type.
  template <typename T>
  absl::StatusOr<absl::Span<const T>> As() const;
};

struct Prediction {
  // What answered.  Over HTTP, what was asked for.
  std::string model;
  std::string version;
  std::string request_id;

  // In the model's order.
  std::vector<OutputTensor> outputs;

  // Where the server spent the time, in milliseconds: "receive;dur=4.1, queue;dur=0.1, ...".
  std::string timing;
};

// What a model takes or gives; kAnySize for dimensions that may be of any size, kUnspecified for a
// type that may be any.
struct TensorInfo {
  TensorMeta meta;
  bool scalar_broadcasts = false;  // one element may stand for the whole tensor
  bool any_shape = false;          // any shape of any rank, in place of the meta's
};

struct ModelInfo {
  std::string name;
  std::string version;
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;  // empty where the model does not say
  bool any_tensors = false;         // takes any tensors, in place of `inputs`
  bool ready = false;
};

struct ClientOptions {
  // For connecting, and for the answers of ListModels() and GetModel().
  absl::Duration connect_timeout = absl::Seconds(5);
};

// A server, and the connections to it: as many as there are calls at a time, kept for the next
// ones.  Thread-safe.
//
// A call that ends with UNAVAILABLE on a connection that served others before is made once more on
// a new one.  Other errors are the caller's: UNAVAILABLE when the server cannot be reached, and
// those that the server answers.
class Client {
 public:
  // `address` is "HOST:PORT", "[IPV6]:PORT" or "unix:/path".  UNAVAILABLE when nobody listens
  // there, INVALID_ARGUMENT when it is no address.
  static absl::StatusOr<Client> Connect(absl::string_view address, ClientOptions options = {});

  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client();  // No call may be running.

  // Runs a model (empty: the server's default) on the tensors.  Blocks.  Their bytes are sent from
  // where they lie, and are not read after this returns, whatever it returns.
  //
  // An error that the server answers while bytes are still going out ends the call at once.
  absl::StatusOr<Prediction> Predict(absl::string_view model, absl::Span<const TensorView> inputs,
                                     const PredictOptions& options = {}) const;

  // Every model that is served, ordered by name and version.
  absl::StatusOr<std::vector<ModelInfo>> ListModels() const;

  // Empty for the default model and for the latest version.
  absl::StatusOr<ModelInfo> GetModel(absl::string_view name, absl::string_view version = "") const;

 private:
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

// Tells glibc's malloc to keep freed memory, up to 2 GiB, instead of giving it back to the system
// after each large tensor and faulting it in for the next: a large prediction is then two to three
// times as fast. Call it before other threads start.  Does nothing with another malloc.
void KeepFreedMemory();

namespace internal {

template <typename T>
constexpr bool Reads(DType dtype) {
  if (std::is_same_v<T, float>) return dtype == DType::kFloat32;
  if (std::is_same_v<T, double>) return dtype == DType::kFloat64;
  if (std::is_same_v<T, bool>) return dtype == DType::kBool;
  if (!std::is_integral_v<T>) return false;
  switch (dtype) {
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kInt64:
      return std::is_signed_v<T> && sizeof(T) == ElementSize(dtype);
    case DType::kUint8:
    case DType::kUint16:
    case DType::kUint32:
    case DType::kUint64:
    case DType::kFloat16:
    case DType::kBfloat16:
      return std::is_unsigned_v<T> && sizeof(T) == ElementSize(dtype);
    default:
      return false;
  }
}

absl::Status WrongElementType(const TensorMeta& meta);

}  // namespace internal

template <typename T>
absl::StatusOr<absl::Span<const T>> OutputTensor::As() const {
  if (!internal::Reads<T>(meta.dtype)) return internal::WrongElementType(meta);
  return absl::MakeConstSpan(reinterpret_cast<const T*>(data.get()), size / sizeof(T));
}

}  // namespace millrace
