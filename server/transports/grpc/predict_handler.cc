#include "server/transports/grpc/predict_handler.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "proto/framing/framing.h"
#include "proto/millrace/v1/prediction.pb.h"
#include "server/core/errors.h"
#include "server/core/mutex.h"
#include "server/core/status_macros.h"
#include "server/transports/grpc/grpc_status.h"

namespace millrace {
namespace {

constexpr char kTimingKey[] = "millrace-timing";

// Answers above this are watched: a smaller one fits gRPC's buffers whether or not the client reads
// it.
constexpr uint64_t kWatchedAnswer = 64 << 10;

absl::StatusOr<Declaration> ToDeclaration(v1::RequestHeader header) {
  Declaration declaration;
  ASSIGN_OR_RETURN(declaration.tensors, FromProto(header.tensors()));
  declaration.model = std::move(*header.mutable_model());
  declaration.version = std::move(*header.mutable_version());
  declaration.request_id = std::move(*header.mutable_request_id());
  declaration.parameters.assign(header.parameters().begin(), header.parameters().end());
  return declaration;
}

v1::ResponseHeader ToHeader(const Response& response) {
  v1::ResponseHeader header;
  header.set_model(response.model);
  header.set_version(response.version);
  header.set_request_id(response.request_id);
  for (const Tensor& tensor : response.outputs) ToProto(tensor.meta, *header.add_tensors());
  return header;
}

uint64_t PayloadSize(const Response& response) {
  uint64_t size = 0;
  for (const Tensor& tensor : response.outputs) size += tensor.bytes.size();
  return size;
}

// A slice over `bytes`, a part of the tensor's, that keeps the tensor's memory until gRPC has sent
// it.
grpc::Slice SharedSlice(const Tensor& tensor, absl::Span<const std::byte> bytes) {
  using Owner = std::shared_ptr<const void>;
  constexpr size_t kCheaperToCopy = 1024;
  if (bytes.size() <= kCheaperToCopy) return grpc::Slice(bytes.data(), bytes.size());
  return grpc::Slice(
      const_cast<std::byte*>(bytes.data()), bytes.size(),
      [](void* owner) { delete static_cast<Owner*>(owner); }, new Owner(tensor.owner));
}

// Copies a message's payload to where the assembler wants it.
absl::Status Assemble(const grpc::ByteBuffer& message, const Part& part, Assembler& assembler) {
  if (part.payload_size > assembler.remaining()) {
    return absl::InvalidArgumentError(absl::StrCat("the payload is longer than the header says: ",
                                                   assembler.received() + assembler.remaining(),
                                                   " bytes"));
  }
  return ReadPayload(message, part, [&](absl::Span<const std::byte> bytes) -> absl::Status {
    while (!bytes.empty()) {
      ASSIGN_OR_RETURN(const absl::Span<std::byte> space, assembler.Space());
      const size_t size = std::min(space.size(), bytes.size());
      std::memcpy(space.data(), bytes.data(), size);
      assembler.Commit(size);
      bytes.remove_prefix(size);
    }
    return absl::OkStatus();
  });
}

absl::Status CheckComplete(const Assembler& assembler) {
  if (assembler.remaining() == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the payload ended after ", assembler.received(),
                                                 " bytes; the header says ",
                                                 assembler.received() + assembler.remaining()));
}

// One call of the engine:
//
//   up:    OnMessage -> Declare -> on_admitted -> [ Read -> OnMessage -> Assemble ]... -> Submit
//   down:  the engine's answer -> one message, or header -> OnWritten -> piece -> ... -> Finish
//
// It ends when the engine calls back: what goes wrong on the way up is said to the engine.
class PredictHandler final : public RpcHandler {
 public:
  PredictHandler(const PredictForm& form, const GrpcOptions& options, Engine& engine, Rpc& rpc)
      : form_(form), options_(options), engine_(engine), rpc_(rpc) {}

  void OnStart() override {
    if (absl::Status status = Open(); !status.ok()) return rpc_.Finish(ToGrpc(status));
    rpc_.Read();
  }

  void OnMessage(grpc::ByteBuffer& message) override {
    if (rpc_.finished()) return;
    v1::RequestHeader header;
    absl::StatusOr<Part> part = ReadPart(message, header);
    if (!part.ok()) return call_->Cancel(part.status());
    if (admitted_) return TakePiece(message, *part);
    if (form_.pieces_up && (!part->has_header || part->has_payload)) {
      return call_->Cancel(
          absl::InvalidArgumentError("the first message must hold the header and nothing else"));
    }
    Declare(std::move(header), [this, &message, part = *part] { OnAdmitted(message, part); });
  }

  void OnEnd() override {
    if (rpc_.finished()) return;
    if (!admitted_)
      return call_->Cancel(absl::InvalidArgumentError("the call ended without a header"));
    Submit();
  }

  void OnWritten(bool ok) override {
    if (!ok) return rpc_.Finish({grpc::StatusCode::CANCELLED, "the client went away"});
    WriteNext();
  }

  void OnCancel() override {
    if (call_ != nullptr) call_->Cancel(absl::CancelledError("the client cancelled the call"));
  }

 private:
  absl::Status Open() {
    MutexLock lock(mu_);  // OnCallDone() may be called before Open() has returned here.
    ASSIGN_OR_RETURN(call_, engine_.Open(form_.way, [this, rpc = rpc_.shared_from_this()](
                                                        absl::StatusOr<Response> result) {
      OnCallDone(std::move(result));
    }));
    call_->SetDeadline(rpc_.deadline());
    return absl::OkStatus();
  }

  // ---- up

  void Declare(v1::RequestHeader header, absl::AnyInvocable<void()> on_admitted) {
    absl::StatusOr<Declaration> declaration = ToDeclaration(std::move(header));
    if (!declaration.ok()) return call_->Cancel(declaration.status());
    call_->Admit(*std::move(declaration),
                 [rpc = rpc_.shared_from_this(), go = std::move(on_admitted)]() mutable { go(); });
  }

  void OnAdmitted(grpc::ByteBuffer& message, const Part& part) {
    admitted_ = true;
    if (form_.pieces_up) return rpc_.Read();
    absl::Status status = Assemble(message, part, call_->assembler());
    message.Clear();
    if (!status.ok()) return call_->Cancel(std::move(status));
    Submit();
  }

  void TakePiece(const grpc::ByteBuffer& message, const Part& part) {
    absl::Status status = part.has_header
                              ? absl::InvalidArgumentError(
                                    "a second header; later messages hold pieces of the payload")
                              : Assemble(message, part, call_->assembler());
    if (!status.ok()) return call_->Cancel(std::move(status));
    rpc_.Read();
  }

  void Submit() {
    absl::Status status = CheckComplete(call_->assembler());
    if (!status.ok()) return call_->Cancel(std::move(status));
    call_->Submit();
  }

  // ---- down; on the thread that ended the engine's call, then the queue's

  void OnCallDone(absl::StatusOr<Response> result) {
    { MutexLock opened(mu_); }
    rpc_.AddTrailingMetadata(kTimingKey, ServerTiming(call_->timing()));
    if (!result.ok()) return rpc_.Finish(ToGrpc(result.status()));
    response_ = *std::move(result);
    if (form_.pieces_down) {
      AnswerInPieces();
    } else {
      AnswerInOne();
    }
  }

  void AnswerInOne() {
    const uint64_t size = PayloadSize(response_);
    if (const uint64_t limit = options_.max_unary_bytes; size > limit) {
      return rpc_.Finish(ToGrpc(TooLargeError(
          absl::StrCat("the answer has ", size, " bytes, more than one message may hold (", limit,
                       ", --max-unary-bytes); call PredictDuplex"))));
    }
    std::vector<grpc::Slice> payload;
    for (const Tensor& tensor : response_.outputs)
      payload.push_back(SharedSlice(tensor, tensor.bytes));
    const v1::ResponseHeader header = ToHeader(response_);
    if (size > kWatchedAnswer) rpc_.CancelUnlessWritten(engine_.options().request_timeout);
    rpc_.FinishWith(WritePart(&header, payload));
  }

  void AnswerInPieces() {
    if (PayloadSize(response_) > kWatchedAnswer)
      rpc_.CancelUnlessWritten(engine_.options().stall_timeout);
    const v1::ResponseHeader header = ToHeader(response_);
    rpc_.Write(WritePart(&header, {}));
  }

  void WriteNext() {
    while (tensor_ < response_.outputs.size() && sent_ == response_.outputs[tensor_].bytes.size()) {
      ++tensor_;
      sent_ = 0;
    }
    if (tensor_ == response_.outputs.size()) return rpc_.Finish(grpc::Status::OK);
    const Tensor& tensor = response_.outputs[tensor_];
    const absl::Span<const std::byte> piece = tensor.bytes.subspan(sent_, kPieceSize);
    sent_ += piece.size();
    const grpc::Slice slice = SharedSlice(tensor, piece);
    rpc_.Write(WritePart(nullptr, {&slice, 1}));
  }

  const PredictForm& form_;
  const GrpcOptions& options_;
  Engine& engine_;
  Rpc& rpc_;
  Mutex mu_;  // held while call_ is set
  std::shared_ptr<Call> call_;
  bool admitted_ = false;  // between two reads nobody looks

  Response response_;
  size_t tensor_ = 0;  // being sent
  uint64_t sent_ = 0;  // bytes of it
};

}  // namespace

MakeRpcHandler PredictHandlers(const PredictForm& form, const GrpcOptions& options,
                               Engine& engine) {
  return [&](Rpc& rpc) { return std::make_unique<PredictHandler>(form, options, engine, rpc); };
}

}  // namespace millrace
