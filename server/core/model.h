// What runs on tensors.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "proto/wire/tensor.h"
#include "server/core/slab_pool.h"
#include "server/core/tensor.h"

namespace millrace {

// What a model takes or gives.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kUnspecified;  // kUnspecified for any
  Shape shape;                        // kAnySize for any

  // True for any shape of any rank, in place of `shape`.
  bool any_shape = false;

  // True if one element, of any rank, may stand for the whole tensor.
  bool scalar_broadcasts = false;

  // The shape that bytes are given which come without one, such as a plain HTTP POST: at most one
  // kAnySize, which follows from the number of bytes.  Empty: `shape`.
  Shape bare_shape = {};
};

struct ModelSpec {
  std::string name;
  std::string version = "1";
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;  // empty where the model does not say

  // True if it takes any tensors under any names, in place of `inputs`.
  bool any_tensors = false;
};

// "image: float32[-1,2500]"; "x: any[...]" for any type and shape.
std::string ToString(const TensorSpec& spec);

// True for a tensor of the spec's type and shape, whatever its name.
bool Fits(const TensorSpec& spec, const TensorMeta& tensor);

// Settings that came with a request.
using Parameters = std::vector<std::pair<std::string, std::string>>;

// A request with all its bytes.
struct Request {
  Parameters parameters;
  std::vector<Tensor> inputs;  // in the order of the spec's inputs; as sent where any_tensors
};

// Where a model puts what it computed.
class Outputs {
 public:
  explicit Outputs(SlabPool& pool) : pool_(pool) {}  // The pool must outlive it.

  // Adds an output and returns its memory, 64-byte aligned, to be filled before Run() returns.
  // RESOURCE_EXHAUSTED when the arena has not the room.
  absl::StatusOr<absl::Span<std::byte>> Add(TensorMeta meta);

  // Adds a tensor that exists, without copying it.
  void Forward(Tensor tensor) { tensors_.push_back(std::move(tensor)); }

  // For outputs whose memory a model takes by itself, and then forwards.
  SlabPool& pool() { return pool_; }

  std::vector<Tensor> Take() && { return std::move(tensors_); }

 private:
  SlabPool& pool_;
  std::vector<Tensor> tensors_;
};

// Up to this many bytes of input are read, in some 40 microseconds, as soon as the request would be
// handed to another thread and its answer back.
inline constexpr uint64_t kQuickBytes = 1 << 20;

// Bytes of all the inputs.
uint64_t InputBytes(const Request& request);

// A request that its model works on while its bytes arrive.
//
// The engine promises: one call at a time, on any of its threads, each of which sees what those
// before it did; the object is destroyed once, after the last of them has returned.  The client may
// leave at any time: there may be no call at all, and no last one.
class EarlyRun {
 public:
  virtual ~EarlyRun() = default;

  // `rows` are the bytes of the whole rows (slices of the first dimension) that are here: those of
  // the call before, at the same place, and more.  The last call has all rows, and leaves the
  // outputs complete, as Model::Run() does; how many there are before it, if any, depends on what
  // else the server has to do.  An error fails the request, as there.
  virtual absl::Status OnRows(absl::Span<const std::byte> rows, Outputs& outputs) = 0;
};

// The engine promises: inputs fit spec() as it was when the request was declared; Run() is called
// from several threads at once; the model outlives every Run().
class Model {
 public:
  virtual ~Model() = default;

  // Lives as long as the model, but another one may take its place at any time, of the same name
  // and version.
  virtual const ModelSpec& spec() const = 0;

  // Requests that it runs at once, on threads of its own; 0 for one that shares the server's.
  // Constant.
  virtual int Concurrency() const { return 0; }

  // False while it can do nothing but fail.
  virtual bool ready() const { return true; }

  // Computes the outputs of one request, in the order of the spec's.  An error or an exception
  // fails this request only; the client sees an error's code and text, and of an exception that
  // there was one.
  virtual absl::Status Run(const Request& request, Outputs& outputs) = 0;

  // True if Run() takes some tens of microseconds at most for this request and never blocks.  It
  // may then be called from a transport's thread, which serves others meanwhile.
  virtual bool RunsQuickly(const Request& request) const {
    (void)request;
    return false;
  }

  // What works on a request of one large input while it arrives, in the place of Run(); null for
  // Run().  Called on a transport's thread, for some requests only: cheap, and allocates nothing
  // large, which the first OnRows() may do.
  virtual std::unique_ptr<EarlyRun> StartEarly(const TensorMeta& input,
                                               const Parameters& parameters) {
    (void)input, (void)parameters;
    return nullptr;
  }
};

// Checks that the tensors are those that the model takes, in any order, each once, of its type and
// shape.  A single tensor without a name is the model's single input, and gets its name.
// INVALID_ARGUMENT says what was expected and what came.
absl::Status CheckInputs(const ModelSpec& spec, std::vector<TensorMeta>& tensors);

// Type and shape for `size` bytes that came without either: the model's single input with its bare
// shape, or one element if the size says so and it broadcasts; float32 of one dimension where the
// input may be anything; uint8[size] for a model that takes any tensors.  INVALID_ARGUMENT when the
// model has several inputs or the size does not fit.
absl::StatusOr<TensorMeta> DescribeBareBytes(const ModelSpec& spec, uint64_t size);

}  // namespace millrace
