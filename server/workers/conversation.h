// One request on a slot of a worker: what is said to the process, and what it answers.
#pragma once

#include <absl/status/status.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include <memory>
#include <string>
#include <vector>

#include "server/core/model.h"
#include "server/workers/worker.h"

namespace millrace {

// Used by one thread, once.  Holds the memory that the worker writes to: after ABORTED it must live
// until the process has ended.
class Conversation {
 public:
  Conversation(Worker& worker, int slot) : worker_(worker), slot_(slot), run_(worker.NextRun()) {}

  // Runs the request, for `timeout` at most.  ABORTED when the worker is of no more use and has to
  // be ended: the message says why, or nothing if it has gone by itself.  Other errors are the
  // request's; INTERNAL is the function's.
  absl::Status Run(const Request& request, const ModelSpec& spec, absl::Duration timeout,
                   Outputs& outputs);

 private:
  absl::Status SendInputs(const Request& request);
  absl::Status TakeOutputs(Reply reply, Outputs& outputs);

  // Has the worker write its outputs to memory of the arena.
  absl::Status FetchOutputs(std::vector<TensorMeta> metas, const ModelSpec& spec, Outputs& outputs);
  absl::Status MakeRoom(absl::Span<const TensorMeta> metas, SlabPool& pool);
  absl::Status SendRoom();

  absl::Status Send(const std::string& message, const Worker::Maps& maps);
  absl::StatusOr<Reply> Receive();
  absl::Status AwaitReadable() const;

  Worker& worker_;
  const int slot_;
  const uint64_t run_;
  absl::Duration timeout_;
  absl::Time deadline_;
  std::unique_ptr<char[]> buffer_;  // for the reply
  std::shared_ptr<Slab> room_;
  std::vector<Place> places_;  // of the outputs in it
};

}  // namespace millrace
