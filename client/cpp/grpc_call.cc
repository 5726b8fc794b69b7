#include "client/cpp/grpc_call.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <fcntl.h>
#include <grpc/grpc.h>
#include <grpcpp/client_context.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/generic/generic_stub.h>
#include <sys/socket.h>

#include <mutex>
#include <utility>

#include "client/cpp/borrowed_slices.h"
#include "client/cpp/output_assembler.h"
#include "proto/framing/framing.h"

namespace millrace::internal {
namespace {

// gRPC's length of a message has 32 bits, and protobuf's 31.
constexpr uint64_t kMaxMessageSize = (uint64_t{2} << 30) - (1 << 20);

// How long gRPC may take to put a call away that is over.
constexpr absl::Duration kPatience = absl::Milliseconds(20);

const char* Method(Way way) {
  switch (way) {
    case Way::kUnary:
      return "/millrace.v1.PredictionService/Predict";
    case Way::kStream:
      return "/millrace.v1.PredictionService/PredictStream";
    default:
      return "/millrace.v1.PredictionService/PredictDuplex";
  }
}

v1::RequestHeader RequestHeader(absl::string_view model, absl::Span<const TensorView> inputs,
                                const PredictOptions& options) {
  v1::RequestHeader header;
  header.set_model(std::string(model));
  header.set_version(options.version);
  header.set_request_id(options.request_id);
  for (const TensorView& input : inputs) ToProto(input.meta, *header.add_tensors());
  for (const auto& [key, value] : options.parameters) (*header.mutable_parameters())[key] = value;
  return header;
}

// Puts the messages of an answer together.
class AnswerReader {
 public:
  absl::Status Add(grpc::ByteBuffer& message) {
    absl::StatusOr<Part> part = ReadPart(message, header_);
    if (!part.ok()) return BrokenAnswer(part.status().message());
    if (part->has_header) {
      if (std::exchange(has_header_, true)) return BrokenAnswer("its header comes twice");
      absl::StatusOr<std::vector<TensorMeta>> metas = FromProto(header_.tensors());
      if (!metas.ok()) return BrokenAnswer(metas.status().message());
      const absl::Status status = outputs_.Declare(*std::move(metas));
      if (!status.ok()) return status;
    }
    if (!has_header_) return BrokenAnswer("it starts without a header");
    return ReadPayload(message, *part, [this](auto bytes) { return outputs_.Append(bytes); });
  }

  absl::StatusOr<Prediction> Take() {
    if (!has_header_) return BrokenAnswer("it is empty");
    absl::StatusOr<std::vector<OutputTensor>> outputs = outputs_.Take();
    if (!outputs.ok()) return outputs.status();
    return Prediction{header_.model(), header_.version(), header_.request_id(), *std::move(outputs),
                      ""};
  }

 private:
  v1::ResponseHeader header_;
  bool has_header_ = false;
  OutputAssembler outputs_;
};

// One call: one write, one read, and at the end Finish(), at a time, on the connection's queue.
//
//   writes:    the header, then pieces, until all are out or the answer has ended
//   reads:     messages of the answer, until there are no more; then Finish()
//   ends when: nothing is in flight
//
// When its time is up, or it has its answer, and still a write is in flight, because the peer
// hangs, then the connection is broken: gRPC ends a write only with what the transport has begun to
// send.
class PredictCall {
 public:
  PredictCall(GrpcConnection& connection, BorrowedSlices& payload, const PredictOptions& options)
      : connection_(connection), payload_(payload), options_(options) {}

  absl::StatusOr<Prediction> Run(const v1::RequestHeader& header, absl::Time deadline) {
    if (deadline != absl::InfiniteFuture()) context_.set_deadline(absl::ToChronoTime(deadline));
    give_up_ = deadline + kPatience;
    // The metadata goes out with the first message.
    context_.set_initial_metadata_corked(true);
    stream_ = grpc::GenericStub(connection_.channel())
                  .PrepareCall(&context_, Method(options_.way), &connection_.queue());
    const std::stop_callback stop(options_.stop, [this] {
      context_.TryCancel();
      connection_.Break();
    });
    stream_->StartCall(nullptr);
    Write(&header);
    Read();
    while (in_flight_ > 0) HandleNext();
    return Result();
  }

 private:
  enum Step : intptr_t { kWrite, kRead, kFinish };

  void* Start(Step step) {
    ++in_flight_;
    return reinterpret_cast<void*>(step);
  }

  void HandleNext() {
    void* tag = nullptr;
    bool ok = false;
    while (connection_.queue().AsyncNext(&tag, &ok, absl::ToChronoTime(give_up_)) ==
           grpc::CompletionQueue::TIMEOUT) {
      late_ = !answered_;
      connection_.Break();
      give_up_ = absl::InfiniteFuture();
    }
    --in_flight_;
    switch (static_cast<Step>(reinterpret_cast<intptr_t>(tag))) {
      case kWrite:
        return OnWritten(ok);
      case kRead:
        return OnRead(ok);
      case kFinish:
        return OnFinished();
    }
  }

  // The next message, of the header if it is the first.
  void Write(const v1::RequestHeader* header) {
    std::vector<grpc::Slice> piece;
    if (options_.way == Way::kUnary) {
      piece = payload_.Next(payload_.left());
    } else if (header == nullptr) {
      piece = payload_.Next(kPieceSize);
    }
    grpc::WriteOptions how;
    if (payload_.left() == 0) {
      how.set_last_message();
    } else if (header != nullptr) {
      how.set_buffer_hint();  // A piece follows at once.
    }
    writing_ = true;
    stream_->Write(WritePart(header, piece), how, Start(kWrite));
  }

  void OnWritten(bool ok) {
    writing_ = false;
    if (!ok) return;  // The call is over; the read says so too.
    if (options_.progress) options_.progress(payload_.total() - payload_.left(), payload_.total());
    if (payload_.left() > 0 && !answered_) Write(nullptr);
  }

  void Read() { stream_->Read(&message_, Start(kRead)); }

  void OnRead(bool ok) {
    if (!ok) {
      answered_ = true;
      return stream_->Finish(&status_, Start(kFinish));
    }
    const absl::Status status = broken_.ok() ? answer_.Add(message_) : broken_;
    message_.Clear();
    if (!status.ok() && broken_.ok()) {
      broken_ = status;
      context_.TryCancel();
    }
    Read();
  }

  void OnFinished() {
    if (!writing_) return;
    context_.TryCancel();
    give_up_ = absl::Now() + kPatience;
  }

  absl::StatusOr<Prediction> Result() {
    if (!broken_.ok()) return broken_;
    if (options_.stop.stop_requested()) return absl::CancelledError("the call was stopped");
    if (late_) return absl::DeadlineExceededError("no answer in time");
    if (!status_.ok()) return ToAbsl(status_);
    absl::StatusOr<Prediction> prediction = answer_.Take();
    if (!prediction.ok()) return prediction;
    const auto& metadata = context_.GetServerTrailingMetadata();
    if (const auto timing = metadata.find("millrace-timing"); timing != metadata.end()) {
      prediction->timing.assign(timing->second.data(), timing->second.size());
    }
    return prediction;
  }

  GrpcConnection& connection_;
  BorrowedSlices& payload_;
  const PredictOptions& options_;

  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
  grpc::ByteBuffer message_;
  grpc::Status status_;
  AnswerReader answer_;
  absl::Status broken_;  // why the answer is of no use
  absl::Time give_up_;   // when to break the connection
  int in_flight_ = 0;
  bool writing_ = false;
  bool answered_ = false;
  bool late_ = false;  // broken before the answer had ended
};

// Waits until gRPC has let go of the payload.  What a failed call left to be written may never be,
// if the peer hangs; then the connection has to go.
void TakeBack(const BorrowedSlices& payload, GrpcConnection& connection) {
  const absl::Time give_up = absl::Now() + kPatience;
  while (payload.in_use() > 0) {
    if (absl::Now() >= give_up) connection.Break();
    void* tag = nullptr;
    bool ok = false;
    // No tag can come: this lets gRPC do its work.
    connection.queue().AsyncNext(&tag, &ok,
                                 absl::ToChronoTime(absl::Now() + absl::Milliseconds(1)));
  }
}

// Shutting gRPC down with the last of its objects would wait for its poller, up to ten seconds,
// each time that a program is done with its clients.  So it is never shut down.
void KeepGrpcRunning() {
  static std::once_flag once;
  std::call_once(once, grpc_init);
}

}  // namespace

absl::StatusOr<std::unique_ptr<GrpcConnection>> GrpcConnection::Open(const Address& address,
                                                                     absl::Time deadline) {
  absl::StatusOr<Fd> socket = Dial(address, deadline);
  if (!socket.ok()) return socket.status();
  Fd duplicate(::fcntl(socket->get(), F_DUPFD_CLOEXEC, 0));
  if (duplicate.get() < 0) return absl::ResourceExhaustedError("too many open files");
  KeepGrpcRunning();
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetString(GRPC_ARG_DEFAULT_AUTHORITY,
                      address.path.empty() ? ToString(address) : "localhost");
  auto channel =
      grpc::CreateCustomInsecureChannelFromFd(ToString(address), socket->release(), arguments);
  return std::unique_ptr<GrpcConnection>(
      new GrpcConnection(std::move(channel), std::move(duplicate)));
}

GrpcConnection::GrpcConnection(std::shared_ptr<grpc::Channel> channel, Fd socket)
    : channel_(std::move(channel)), socket_(std::move(socket)) {}

GrpcConnection::~GrpcConnection() {
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

void GrpcConnection::Break() {
  broken_ = true;
  ::shutdown(socket_.get(), SHUT_RDWR);
}

absl::Status ToAbsl(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

absl::StatusOr<Prediction> PredictOverGrpc(GrpcConnection& connection, absl::string_view model,
                                           absl::Span<const TensorView> inputs,
                                           const PredictOptions& options, absl::Time deadline) {
  BorrowedSlices payload(inputs);
  if (options.way == Way::kUnary && payload.total() > kMaxMessageSize) {
    return absl::InvalidArgumentError(
        absl::StrCat(payload.total(), " bytes do not fit one message; use Way::kDuplex"));
  }
  absl::StatusOr<Prediction> prediction = PredictCall(connection, payload, options)
                                              .Run(RequestHeader(model, inputs, options), deadline);
  TakeBack(payload, connection);
  return prediction;
}

}  // namespace millrace::internal
