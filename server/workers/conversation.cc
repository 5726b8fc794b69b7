#include "server/workers/conversation.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <errno.h>
#include <poll.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "server/core/assembler.h"
#include "server/core/clock.h"
#include "server/core/status_macros.h"
#include "server/workers/socket.h"

namespace millrace {
namespace {

absl::Status Gone() { return absl::AbortedError(""); }

absl::Status Broken(absl::string_view what) {
  return absl::AbortedError(absl::StrCat("was ended because ", what));
}

absl::Status FunctionFailed(const Reply& reply) { return absl::InternalError(reply.error); }

// What the function returned must be what its model says.
absl::Status CheckAgainst(const ModelSpec& spec, absl::Span<const TensorMeta> outputs) {
  const auto fits = [](const TensorSpec& expected, const TensorMeta& output) {
    return expected.name == output.name && Fits(expected, output);
  };
  if (spec.outputs.empty() ||
      std::equal(spec.outputs.begin(), spec.outputs.end(), outputs.begin(), outputs.end(), fits)) {
    return absl::OkStatus();
  }
  const auto append = [](std::string* out, const auto& tensor) {
    absl::StrAppend(out, ToString(tensor));
  };
  return absl::InternalError(absl::StrCat("model \"", spec.name, "\" returned ",
                                          absl::StrJoin(outputs, ", ", append), "; it declares ",
                                          absl::StrJoin(spec.outputs, ", ", append)));
}

absl::Status NoRoom(uint64_t size, const SlabPool& pool) {
  if (size > pool.limit()) {
    return absl::ResourceExhaustedError(absl::StrCat("the outputs have ", size,
                                                     " bytes, more than the server's memory of ",
                                                     pool.limit(), " (--memory-limit)"));
  }
  return absl::ResourceExhaustedError(absl::StrCat("no room in the server's memory for outputs of ",
                                                   size, " bytes; try again later"));
}

uint64_t OffsetOf(const Tensor& tensor) {
  return static_cast<uint64_t>(tensor.bytes.data() - tensor.slab->data());
}

}  // namespace

absl::Status Conversation::Run(const Request& request, const ModelSpec& spec,
                               absl::Duration timeout, Outputs& outputs) {
  timeout_ = timeout;
  deadline_ = RealClock().Now() + timeout;
  RETURN_IF_ERROR(SendInputs(request));
  ASSIGN_OR_RETURN(Reply reply, Receive());
  switch (reply.kind) {
    case Reply::Kind::kOutputs:
      RETURN_IF_ERROR(CheckAgainst(spec, reply.outputs));
      return TakeOutputs(std::move(reply), outputs);
    case Reply::Kind::kNeedsRoom:
      return FetchOutputs(std::move(reply.outputs), spec, outputs);
    case Reply::Kind::kError:
      return FunctionFailed(reply);
    case Reply::Kind::kWritten:
      break;
  }
  return Broken("it wrote what it was not asked for");
}

absl::Status Conversation::SendInputs(const Request& request) {
  Worker::Maps maps;
  std::vector<PlacedTensor> inputs;
  absl::Status status;
  for (const Tensor& input : request.inputs) {
    inputs.push_back({input.meta, {}});
    if (input.bytes.empty()) continue;
    if (input.slab == nullptr) return absl::InternalError("an input lies outside the arena");
    inputs.back().place = {input.slab->memory_id(), OffsetOf(input)};
    status = worker_.Share(*input.slab, OffsetOf(input) + input.bytes.size(), false, maps);
    if (!status.ok()) break;
  }
  const std::string message = RunMessage(run_, inputs, maps.maps);
  if (status.ok() && message.size() > kMaxWorkerMessage) {
    status = absl::InvalidArgumentError("the names of the tensors are too long");
  }
  if (status.ok()) return Send(message, maps);
  for (const MemoryMap& map : maps.maps) worker_.Dropped(map.memory);
  return status;
}

absl::Status Conversation::TakeOutputs(Reply reply, Outputs& outputs) {
  for (TensorMeta& meta : reply.outputs) {
    ASSIGN_OR_RETURN(const absl::Span<std::byte> space, outputs.Add(std::move(meta)));
    std::memcpy(space.data(), reply.bytes.data(), space.size());
    reply.bytes.remove_prefix(space.size());
  }
  return absl::OkStatus();
}

absl::Status Conversation::FetchOutputs(std::vector<TensorMeta> metas, const ModelSpec& spec,
                                        Outputs& outputs) {
  absl::Status fit = CheckAgainst(spec, metas);
  if (fit.ok()) fit = MakeRoom(metas, outputs.pool());
  RETURN_IF_ERROR(SendRoom());
  ASSIGN_OR_RETURN(const Reply reply, Receive());
  RETURN_IF_ERROR(fit);
  if (reply.kind == Reply::Kind::kError) return FunctionFailed(reply);
  if (reply.kind != Reply::Kind::kWritten) return Broken("it did not write its outputs");
  for (size_t i = 0; i < metas.size(); ++i) {
    const uint64_t size = ByteSize(metas[i].dtype, metas[i].shape).value();
    const auto bytes = absl::MakeConstSpan(room_->data() + places_[i].offset, size);
    outputs.Forward({{std::move(metas[i]), bytes}, room_, room_.get()});
  }
  return absl::OkStatus();
}

absl::Status Conversation::MakeRoom(absl::Span<const TensorMeta> metas, SlabPool& pool) {
  ASSIGN_OR_RETURN(const uint64_t size, Assembler::SlabSize(metas));
  std::shared_ptr<Slab> room = pool.Promise(size);
  if (room == nullptr) return NoRoom(size, pool);
  RETURN_IF_ERROR(room->Map());
  uint64_t end = 0;
  for (const TensorMeta& meta : metas) {
    const uint64_t bytes = ByteSize(meta.dtype, meta.shape).value();
    end = (end + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment;
    places_.push_back(bytes == 0 ? Place{} : Place{room->memory_id(), end});
    end += bytes;
  }
  room_ = std::move(room);
  return absl::OkStatus();
}

absl::Status Conversation::SendRoom() {
  Worker::Maps maps;
  if (room_ != nullptr) RETURN_IF_ERROR(worker_.Share(*room_, room_->size(), true, maps));
  return Send(RoomMessage(places_, maps.maps), maps);
}

absl::Status Conversation::Send(const std::string& message, const Worker::Maps& maps) {
  return SendMessage(worker_.slot(slot_), message, maps.fds) ? absl::OkStatus() : Gone();
}

absl::StatusOr<Reply> Conversation::Receive() {
  RETURN_IF_ERROR(AwaitReadable());
  if (buffer_ == nullptr) buffer_ = std::make_unique_for_overwrite<char[]>(kMaxWorkerMessage);
  absl::string_view message;
  const Received received = ReceiveMessage(
      worker_.slot(slot_), absl::MakeSpan(buffer_.get(), kMaxWorkerMessage), message);
  if (received == Received::kTooLong) return Broken("its answer is too long");
  if (received != Received::kMessage) return Gone();
  absl::StatusOr<Reply> reply = ParseReply(message);
  if (!reply.ok()) return Broken(reply.status().message());
  if (reply->run != run_) return Broken("it answered another request");
  for (const uint64_t memory : reply->dropped) worker_.Dropped(memory);
  return reply;
}

absl::Status Conversation::AwaitReadable() const {
  pollfd fds[] = {{worker_.slot(slot_), POLLIN, 0}, {worker_.process().pidfd(), POLLIN, 0}};
  while (true) {
    const absl::Duration left = std::max(deadline_ - RealClock().Now(), absl::ZeroDuration());
    const int64_t milliseconds = std::min<int64_t>(absl::ToInt64Milliseconds(left) + 1, 1'000'000);
    const int ready = poll(fds, 2, static_cast<int>(milliseconds));
    if (ready > 0) return (fds[0].revents & POLLIN) != 0 ? absl::OkStatus() : Gone();
    if (ready < 0 && errno != EINTR) return Gone();
    if (left == absl::ZeroDuration()) {
      return absl::AbortedError(absl::StrCat("was killed after ", absl::FormatDuration(timeout_),
                                             " without an answer (--timeout)"));
    }
  }
}

}  // namespace millrace
