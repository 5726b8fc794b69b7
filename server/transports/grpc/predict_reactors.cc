#include "server/transports/grpc/predict_reactors.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <grpcpp/alarm.h>

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

namespace millrace {
namespace {

constexpr char kTimingKey[] = "millrace-timing";

// Answers above this are watched: a smaller one fits gRPC's buffers whether or not the client reads
// it.
constexpr uint64_t kWatchedAnswer = 64 << 10;

grpc::Status ToGrpc(const absl::Status& status) {
  return grpc::Status(static_cast<grpc::StatusCode>(status.raw_code()),
                      std::string(status.message()));
}

absl::Status CheckMetadata(const grpc::CallbackServerContext& context, uint64_t limit) {
  uint64_t size = 0;
  for (const auto& [key, value] : context.client_metadata()) size += key.size() + value.size();
  if (size <= limit) return absl::OkStatus();
  return TooLargeError(
      absl::StrCat("the call's metadata has ", size, " bytes; at most ", limit, " are allowed"));
}

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

// What the three have in common: a call of the engine, and an end.  `Base` is gRPC's reactor.
//
// Owned by itself until OnDone() and by the engine's callbacks, which may come from any thread; the
// last of them deletes it.
template <typename Base>
class PredictReactor : public Base, public std::enable_shared_from_this<PredictReactor<Base>> {
 public:
  PredictReactor(GrpcServices services, grpc::CallbackServerContext* context)
      : services_(services), context_(context) {}

  // Opens the call; false if it was refused and finished.  To be called once, by whoever made the
  // reactor.
  bool Open(absl::string_view way) {
    {
      MutexLock lock(mu_);
      self_ = this->shared_from_this();
    }
    if (absl::Status status = TryOpen(way); !status.ok()) {
      Fail(status);
      return false;
    }
    return true;
  }

  void OnCancel() override {
    if (call_ == nullptr) return;
    if (!declared_.load(std::memory_order_relaxed)) place_.CountEarlyReset();
    call_->Cancel(absl::CancelledError("the client cancelled the call"));
  }

  void OnDone() override {
    std::shared_ptr<PredictReactor> self;
    MutexLock lock(mu_);
    done_ = true;
    self.swap(self_);
  }

 protected:
  // Sends the answer and finishes.
  virtual void Answer(Response response) = 0;

  void Declare(v1::RequestHeader header, Call::OnAdmitted on_admitted) {
    declared_.store(true, std::memory_order_relaxed);
    absl::StatusOr<Declaration> declaration = ToDeclaration(std::move(header));
    if (!declaration.ok()) return call_->Cancel(declaration.status());
    call_->Admit(*std::move(declaration), std::move(on_admitted));
  }

  // For operations that must not come after Finish().
  template <typename Operation>
  void UnlessFinished(Operation operation) {
    MutexLock lock(mu_);
    if (!finished_) operation();
  }

  bool finished() {
    MutexLock lock(mu_);
    return finished_;
  }

  void FinishOnce(const grpc::Status& status) {
    {
      MutexLock lock(mu_);
      finished_ = true;
    }
    this->Finish(status);
  }

  void Fail(const absl::Status& status) { FinishOnce(ToGrpc(status)); }

  // Answers with one message, or with RESOURCE_EXHAUSTED if it is too large for one.
  void AnswerInOne(const Response& response, grpc::ByteBuffer& message) {
    const uint64_t size = PayloadSize(response);
    const uint64_t limit = services_.options.max_unary_bytes;
    if (size > limit) {
      return Fail(TooLargeError(absl::StrCat("the answer has ", size,
                                             " bytes, more than one message may hold (", limit,
                                             ", --max-unary-bytes); call PredictDuplex")));
    }
    std::vector<grpc::Slice> payload;
    for (const Tensor& tensor : response.outputs)
      payload.push_back(SharedSlice(tensor, tensor.bytes));
    const v1::ResponseHeader header = ToHeader(response);
    message = WritePart(&header, payload);
    if (size > kWatchedAnswer) WatchAnswer(services_.engine.options().request_timeout);
    FinishOnce(grpc::Status::OK);
  }

  // Cancels the call when there is no OnAnswerMoved() for `period`, until it is done.
  void WatchAnswer(absl::Duration period) {
    MutexLock lock(mu_);
    SetAlarm(period);
  }

  void OnAnswerMoved() { answer_moved_.store(true, std::memory_order_relaxed); }

  GrpcServices services_;
  grpc::CallbackServerContext* const context_;
  std::shared_ptr<Call> call_;

 private:
  absl::Status TryOpen(absl::string_view way) {
    RETURN_IF_ERROR(CheckMetadata(*context_, services_.options.max_metadata_bytes));
    ASSIGN_OR_RETURN(place_, services_.connections.Enter(context_->peer()));
    {
      MutexLock lock(mu_);  // OnCallDone() may be called before Open() has returned here.
      ASSIGN_OR_RETURN(call_, services_.engine.Open(way, [self = this->shared_from_this()](
                                                             absl::StatusOr<Response> result) {
        self->OnCallDone(std::move(result));
      }));
    }
    call_->SetDeadline(absl::FromChrono(context_->deadline()));
    return absl::OkStatus();
  }

  void OnCallDone(absl::StatusOr<Response> result) {
    { MutexLock opened(mu_); }
    context_->AddTrailingMetadata(kTimingKey, ServerTiming(call_->timing()));
    if (!result.ok()) return Fail(result.status());
    Answer(*std::move(result));
  }

  void SetAlarm(absl::Duration period) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    answer_moved_.store(false, std::memory_order_relaxed);
    alarm_.Set(absl::ToChronoTime(absl::Now() + period), [weak = this->weak_from_this(),
                                                          period](bool expired) {
      const auto self = weak.lock();  // The alarm keeps its callback, even when it is over.
      if (expired && self != nullptr) self->CheckAnswer(period);
    });
  }

  void CheckAnswer(absl::Duration period) {
    MutexLock lock(mu_);
    if (done_) return;
    if (!answer_moved_.load(std::memory_order_relaxed)) return context_->TryCancel();
    SetAlarm(period);
  }

  GrpcConnections::Place place_;
  std::atomic<bool> declared_ = false;
  std::atomic<bool> answer_moved_ = false;

  Mutex mu_;
  std::shared_ptr<PredictReactor> self_ ABSL_GUARDED_BY(mu_);
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  bool done_ ABSL_GUARDED_BY(mu_) = false;  // the context is gone
  grpc::Alarm alarm_ ABSL_GUARDED_BY(mu_);
};

class UnaryReactor final : public PredictReactor<grpc::ServerUnaryReactor> {
 public:
  // Takes what is in `request`, which may be gone before the last of it is copied.
  UnaryReactor(GrpcServices services, grpc::CallbackServerContext* context,
               const grpc::ByteBuffer* request, grpc::ByteBuffer* response)
      : PredictReactor(services, context), response_(response) {
    message_.Swap(const_cast<grpc::ByteBuffer*>(request));
  }

  void Start() {
    v1::RequestHeader header;
    absl::StatusOr<Part> part = ReadPart(message_, header);
    if (!part.ok()) return call_->Cancel(part.status());
    Declare(std::move(header),
            [this, self = shared_from_this(), part = *part] { ReadTensors(part); });
  }

 private:
  void ReadTensors(const Part& part) {
    absl::Status status = Assemble(message_, part, call_->assembler());
    message_.Clear();
    if (status.ok()) status = CheckComplete(call_->assembler());
    if (!status.ok()) return call_->Cancel(std::move(status));
    call_->Submit();
  }

  void Answer(Response response) override { AnswerInOne(response, *response_); }

  grpc::ByteBuffer message_;
  grpc::ByteBuffer* const response_;
};

// A stream of messages upwards.
//
//   read loop:  OnReadDone -> Declare or Assemble -> StartRead -> ...
//   at its end: the client half-closes -> Submit
//   ends when:  the engine calls back, with an answer or an error
template <typename Base>
class UploadReactor : public PredictReactor<Base> {
 public:
  using PredictReactor<Base>::PredictReactor;

  void Start() { Read(); }

  void OnReadDone(bool ok) override {
    if (this->finished()) return;
    if (!ok) return Submit();
    v1::RequestHeader header;
    absl::StatusOr<Part> part = ReadPart(message_, header);
    if (!part.ok()) return this->call_->Cancel(part.status());
    if (admitted_) return ReadPiece(*part);
    if (!part->has_header || part->has_payload) {
      return this->call_->Cancel(
          absl::InvalidArgumentError("the first message must hold the header and nothing else"));
    }
    message_.Clear();
    this->Declare(std::move(header), [this, self = this->shared_from_this()] {
      admitted_ = true;
      Read();
    });
  }

 private:
  void Read() {
    this->UnlessFinished([this] { this->StartRead(&message_); });
  }

  void ReadPiece(const Part& part) {
    absl::Status status = part.has_header
                              ? absl::InvalidArgumentError(
                                    "a second header; later messages hold pieces of the payload")
                              : Assemble(message_, part, this->call_->assembler());
    message_.Clear();
    if (!status.ok()) return this->call_->Cancel(std::move(status));
    Read();
  }

  void Submit() {
    if (!admitted_)
      return this->call_->Cancel(absl::InvalidArgumentError("the stream ended without a header"));
    absl::Status status = CheckComplete(this->call_->assembler());
    if (!status.ok()) return this->call_->Cancel(std::move(status));
    this->call_->Submit();
  }

  grpc::ByteBuffer message_;
  bool admitted_ = false;  // read loop only
};

class StreamReactor final : public UploadReactor<grpc::ServerReadReactor<grpc::ByteBuffer>> {
 public:
  StreamReactor(GrpcServices services, grpc::CallbackServerContext* context,
                grpc::ByteBuffer* response)
      : UploadReactor(services, context), response_(response) {}

 private:
  void Answer(Response response) override { AnswerInOne(response, *response_); }

  grpc::ByteBuffer* const response_;
};

// Adds to the read loop of UploadReactor:
//
//   write loop:  engine's answer -> header -> OnWriteDone -> piece -> ... -> Finish
class DuplexReactor final
    : public UploadReactor<grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>> {
 public:
  using UploadReactor::UploadReactor;

  void OnWriteDone(bool ok) override {
    if (!ok) return FinishOnce(grpc::Status(grpc::StatusCode::CANCELLED, "the client went away"));
    OnAnswerMoved();
    WriteNext();
  }

 private:
  void Answer(Response response) override {
    response_ = std::move(response);
    if (PayloadSize(response_) > kWatchedAnswer)
      WatchAnswer(services_.engine.options().stall_timeout);
    const v1::ResponseHeader header = ToHeader(response_);
    Write(WritePart(&header, {}));
  }

  void WriteNext() {
    while (tensor_ < response_.outputs.size() && sent_ == response_.outputs[tensor_].bytes.size()) {
      ++tensor_;
      sent_ = 0;
    }
    if (tensor_ == response_.outputs.size()) return FinishOnce(grpc::Status::OK);
    const Tensor& tensor = response_.outputs[tensor_];
    const absl::Span<const std::byte> piece = tensor.bytes.subspan(sent_, kPieceSize);
    sent_ += piece.size();
    const grpc::Slice slice = SharedSlice(tensor, piece);
    Write(WritePart(nullptr, {&slice, 1}));
  }

  void Write(grpc::ByteBuffer message) {
    outgoing_ = std::move(message);
    UnlessFinished([this] { StartWrite(&outgoing_); });
  }

  Response response_;
  size_t tensor_ = 0;  // being sent
  uint64_t sent_ = 0;  // bytes of it
  grpc::ByteBuffer outgoing_;
};

template <typename Reactor, typename... Args>
Reactor* Begin(absl::string_view way, GrpcServices services, Args... args) {
  const auto reactor = std::make_shared<Reactor>(services, args...);
  if (reactor->Open(way)) reactor->Start();
  return reactor.get();
}

}  // namespace

grpc::ServerUnaryReactor* StartPredict(GrpcServices services, grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request,
                                       grpc::ByteBuffer* response) {
  return Begin<UnaryReactor>("grpc-unary", services, context, request, response);
}

grpc::ServerReadReactor<grpc::ByteBuffer>* StartPredictStream(GrpcServices services,
                                                              grpc::CallbackServerContext* context,
                                                              grpc::ByteBuffer* response) {
  return Begin<StreamReactor>("grpc-stream", services, context, response);
}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartPredictDuplex(
    GrpcServices services, grpc::CallbackServerContext* context) {
  return Begin<DuplexReactor>("grpc-duplex", services, context);
}

}  // namespace millrace
