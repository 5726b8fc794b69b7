// How tensors are written in HTTP bodies: raw, .npy and JSON.
//
// To add a form: write a Codec in a file of its own, declare its function here, and add it to
// Codecs() in codec.cc.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>

#include <cstdint>
#include <optional>
#include <vector>

#include <boost/asio/thread_pool.hpp>

#include "server/core/engine.h"
#include "server/core/model.h"
#include "server/core/slab_pool.h"
#include "server/core/tensor.h"
#include "server/transports/http/answer.h"
#include "server/transports/http/router.h"

namespace millrace {

class Codec;

// What is known of a body before it comes.  A view: all of it must outlive the request's decoding.
struct BodyInfo {
  const ModelSpec& spec;
  const Target& target;
  std::optional<uint64_t> size;  // absent for a chunked body
};

// A body that was read.
struct Question {
  std::vector<Tensor> tensors;
  const Codec* form;     // in which the answer goes back, unless the client asks for another
  bool by_rows = false;  // JSON's "instances", which are answered with "predictions"
};

// Constant, thread-safe and alive forever.  A body is declared, inspected while it comes and
// decoded when it is here; one whose declaration has tensors is not decoded: its bytes are theirs.
class Codec {
 public:
  virtual ~Codec() = default;

  // What it writes, such as "application/json".
  virtual absl::string_view media_type() const = 0;

  // How the engine's reports call such requests: "http-json".
  virtual absl::string_view way() const = 0;

  // True for a Content-Type, in lower case and without parameters, that it reads.
  virtual bool Reads(absl::string_view media_type) const = 0;

  // The tensors and their bytes, as far as the header tells.  The caller fills in model and
  // version.
  virtual absl::StatusOr<Declaration> Declare(const BodyInfo& info) const = 0;

  // Looks at the first bytes of a body that was declared without tensors, to refuse early what
  // cannot be decoded. False: call again with more.
  virtual absl::StatusOr<bool> Inspect(absl::string_view first_bytes,
                                       const BodyInfo& info) const = 0;

  // The tensors in a whole body.  Memory comes from the pool, or is that of the body.  The workers
  // may help; this thread may be one of them.
  virtual absl::StatusOr<Question> Decode(Tensor body, const BodyInfo& info, SlabPool& pool,
                                          boost::asio::thread_pool& workers) const = 0;

  // RESOURCE_EXHAUSTED when the pool has not the room for the text.
  virtual absl::StatusOr<Answer> Encode(const Response& response, bool by_rows,
                                        SlabPool& pool) const = 0;

  // Bytes of zero behind a body, for Decode; a declaration without tensors has room for them.
  virtual size_t padding() const { return 0; }

  // True if large bodies take long to decode and encode, so that it must not happen on a network
  // thread.
  virtual bool slow() const { return false; }
};

// Little-endian values without any header: application/octet-stream, no type at all, and
// application/x-www-form-urlencoded, which is what curl's --data-binary says.  Type and shape come
// from the query, else from the model.  Without either in the query, a body that begins as a .npy
// file does is one.
const Codec& RawCodec();

// application/x-npy.
const Codec& NpyCodec();

// application/json, as KServe V1 and TensorFlow Serving have it.
const Codec& JsonCodec();

// The codec that reads the Content-Type.  An error with HTTP status 415 lists those that there are.
absl::StatusOr<const Codec*> ChooseReader(absl::string_view content_type);

// The codec that writes what the Accept field prefers; `form` where that is as good as any other.
// An error with HTTP status 406 if there is none.
absl::StatusOr<const Codec*> ChooseWriter(absl::string_view accept, const Codec& form);

// An error with HTTP status 406 unless the codec can write so many outputs in one body.
absl::Status CheckOutputs(const Codec& writer, size_t outputs);

}  // namespace millrace
