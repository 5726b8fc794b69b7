// What the server and a worker process tell each other, as text.
//
// A message is four bytes (little-endian) with the size of a JSON text, that text, and small raw
// bytes.  A worker's first, on its control socket, is
//
//   {"version": 1, "any_tensors": false, "inputs": [SPEC...], "outputs": [SPEC...] or null,
//    "files": [PATH...]}
//   or {"version": 1, "failed": "ImportError: ...", "traceback": "...", "files": [PATH...]}
//
// with SPEC {"name": "x", "dtype": "float32" or null, "shape": [-1] or null}.  From then on the
// server tells it there {"forget": [MEMORY...]}.  On each slot the two take turns:
//
//   server  {"run": 7, "inputs": [{"name", "dtype", "shape", "memory", "offset"}...],
//            "maps": [{"memory", "size", "writable"}...]}, with a descriptor for each of the maps
//   worker  {"run": 7, "outputs": [{"name", "dtype", "shape"}...], "inline": true}, and their bytes
//           or {"run": 7, "error": "ValueError: ..."}
//           or {"run": 7, "outputs": [...]}, for outputs that are larger; then
//   server  {"outputs": [{"memory", "offset"}...], "maps": [...]}, with descriptors; no outputs if
//   it
//           has no room
//   worker  {"run": 7, "written": true}, or an error
//
// A tensor without bytes has no memory.  The worker's last answer to a run has "dropped": ids of
// memory that it does not map any more.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <cstdint>
#include <string>
#include <vector>

#include "proto/wire/tensor.h"
#include "server/core/model.h"

namespace millrace {

inline constexpr size_t kMaxWorkerMessage = 128 << 10;  // either way

// Descriptors that one message may carry, as the kernel has it.
inline constexpr size_t kMaxMaps = 253;

// Memory that a worker has yet to map.
struct MemoryMap {
  uint64_t memory = 0;
  uint64_t size = 0;
  bool writable = false;
};

// Where the bytes of a tensor lie.
struct Place {
  uint64_t memory = 0;  // 0: the tensor has no bytes
  uint64_t offset = 0;
};

struct PlacedTensor {
  TensorMeta meta;
  Place place;
};

// The server's messages.
std::string RunMessage(uint64_t run, absl::Span<const PlacedTensor> inputs,
                       absl::Span<const MemoryMap> maps);
std::string RoomMessage(absl::Span<const Place> outputs, absl::Span<const MemoryMap> maps);
std::string ForgetMessage(absl::Span<const uint64_t> memories);

// A worker's first message.
struct Hello {
  std::string failed;     // one line; empty: it is ready, and `spec` is its model, without a name
  std::string traceback;  // with `failed`, if there is one
  ModelSpec spec;
  std::vector<std::string> files;  // of the user's
};

// A worker's answer on a slot.
struct Reply {
  enum class Kind { kError, kOutputs, kNeedsRoom, kWritten };

  Kind kind = Kind::kError;
  uint64_t run = 0;
  std::string error;                // kError: one line
  std::vector<TensorMeta> outputs;  // kOutputs and kNeedsRoom: sizes do not overflow
  absl::string_view bytes;          // kOutputs: of all of them, within the message
  std::vector<uint64_t> dropped;
};

// Take anything: INVALID_ARGUMENT for what is not as above.
absl::StatusOr<Hello> ParseHello(absl::string_view message);
absl::StatusOr<Reply> ParseReply(absl::string_view message);

}  // namespace millrace
