#include "server/transports/http/exchange.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "server/core/status_macros.h"
#include "server/transports/http/http_error.h"

namespace millrace {
namespace {

namespace asio = boost::asio;

// How often a waiting exchange looks whether its client is still there.
constexpr std::chrono::milliseconds kLookAfterClient(50);
constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
constexpr std::chrono::seconds kContinueTimeout(10);

// Less is decoded faster than handed over.
constexpr uint64_t kMinForWorkers = 64 << 10;

absl::Status ClientLeft() { return absl::CancelledError("the client closed the connection"); }

}  // namespace

Exchange::Exchange(Engine& engine, asio::thread_pool& workers, Stream& stream,
                   const RequestHead& head, const Target& target, const Route& route)
    : engine_(engine),
      workers_(workers),
      stream_(stream),
      head_(head),
      target_(target),
      route_(route),
      executor_(stream.executor()),
      wake_(executor_),
      body_(stream, head),
      reader_(ChooseReader(head.content_type)) {}

Exchange::~Exchange() {
  if (call_ != nullptr && !result_)
    call_->Cancel(absl::CancelledError("the connection was given up"));
}

Async<absl::StatusOr<Answer>> Exchange::Run() {
  if (absl::Status status = Open(); !status.ok()) co_return status;
  const absl::Status uploaded = co_await Upload();
  if (!uploaded.ok()) call_->Cancel(uploaded);
  while (!result_) co_await Pause();
  co_return co_await MakeAnswer();
}

absl::Status Exchange::Open() {
  const absl::string_view way = reader_.ok() ? (*reader_)->way() : "http";
  // Weak, because the call owns the callback and the exchange the call.
  auto on_done = [weak = weak_from_this()](absl::StatusOr<Response> result) {
    const std::shared_ptr<Exchange> self = weak.lock();
    if (self == nullptr) return;
    asio::dispatch(self->executor_, [self, result = std::move(result)]() mutable {
      self->OnDone(std::move(result));
    });
  };
  ASSIGN_OR_RETURN(call_, engine_.Open(way, std::move(on_done)));
  return absl::OkStatus();
}

void Exchange::OnDone(absl::StatusOr<Response> result) {
  result_ = std::move(result);
  wake_.cancel();
  if (receiving_) stream_.Interrupt();
}

void Exchange::OnAdmitted() {
  admitted_ = true;
  wake_.cancel();
}

// ---- the way in

Async<absl::Status> Exchange::Upload() {
  absl::StatusOr<Declaration> declaration = Prepare();
  if (!declaration.ok()) co_return declaration.status();
  Admit(*std::move(declaration));
  while (!admitted_ && !result_) co_await Pause();
  if (result_) co_return absl::OkStatus();

  absl::Status status;
  if (head_.expects_continue && stream_.ahead().empty()) status = co_await SayContinue();
  if (status.ok()) status = co_await Receive();
  if (status.ok() && !result_) status = co_await Submit();
  co_return status;
}

absl::StatusOr<Declaration> Exchange::Prepare() {
  RETURN_IF_ERROR(reader_.status());
  form_ = *reader_;
  ASSIGN_OR_RETURN(const Codec* writer, ChooseWriter(head_.accept, *form_));
  ASSIGN_OR_RETURN(const Model* model, engine_.registry().Find(route_.model, route_.version));
  const ModelSpec& spec = model->spec();
  if (!spec.outputs.empty()) RETURN_IF_ERROR(CheckOutputs(*writer, spec.outputs.size()));
  if (head_.framing == Framing::kNone) {
    return HttpError(411, absl::StatusCode::kInvalidArgument,
                     "the request has no body; send a tensor with Content-Length or "
                     "Transfer-Encoding: chunked");
  }
  std::optional<uint64_t> size;
  if (head_.framing == Framing::kLength) size = head_.content_length;
  info_.emplace(BodyInfo{spec, target_, size});
  ASSIGN_OR_RETURN(Declaration declaration, form_->Declare(*info_));
  declaration.model = spec.name;
  declaration.version = spec.version;
  declaration.request_id = head_.request_id;
  return declaration;
}

void Exchange::Admit(Declaration declaration) {
  declared_ = inspected_ = declaration.tensors.has_value();
  call_->Admit(std::move(declaration), [weak = weak_from_this()] {
    const std::shared_ptr<Exchange> self = weak.lock();
    if (self != nullptr) asio::dispatch(self->executor_, [self] { self->OnAdmitted(); });
  });
}

Async<absl::Status> Exchange::SayContinue() {
  asio::const_buffer text = asio::buffer(kContinue);
  Buffers buffers(&text, 1);
  co_return co_await stream_.Write(buffers, kContinueTimeout);
}

Async<absl::Status> Exchange::Receive() {
  const Assembler& assembler = call_->assembler();
  while (!body_.done() && !result_) {
    const absl::StatusOr<absl::Span<std::byte>> space = Space();
    if (!space.ok()) co_return space.status();
    absl::StatusOr<size_t> size = body_.Take(*space);
    if (size.ok() && *size == 0 && !body_.done()) {
      receiving_ = true;
      size = co_await body_.Read(*space);
      receiving_ = false;
    }
    const absl::Status status = Received(*space, size);
    if (!status.ok()) co_return status;
  }
  if (result_ || !declared_ || assembler.remaining() == 0) co_return absl::OkStatus();
  co_return absl::InvalidArgumentError(
      absl::StrCat("the body ends ", assembler.remaining(), " bytes before the end of the tensor"));
}

// Where the next bytes of the body go.
absl::StatusOr<absl::Span<std::byte>> Exchange::Space() {
  if (call_->assembler().remaining() > 0) return call_->assembler().Space();
  return absl::MakeSpan(&beyond_, 1);
}

// What reading into `space` came to.
absl::Status Exchange::Received(absl::Span<const std::byte> space,
                                const absl::StatusOr<size_t>& size) {
  if (absl::IsCancelled(size.status())) return absl::OkStatus();
  if (absl::IsUnavailable(size.status())) {
    client_left_ = true;
    return ClientLeft();
  }
  if (!size.ok()) return size.status();
  Assembler& assembler = call_->assembler();
  if (*size > 0 && assembler.remaining() == 0) return assembler.Space().status();
  return Commit(space, *size);
}

// `size` bytes came into `space`; refuses early what they tell to be unfit.
absl::Status Exchange::Commit(absl::Span<const std::byte> space, size_t size) {
  Assembler& assembler = call_->assembler();
  const uint64_t before = assembler.received();
  assembler.Commit(size);
  if (inspected_) return absl::OkStatus();
  // Bytes of unknown meaning lie one after another.
  const auto* first = reinterpret_cast<const char*>(space.data()) - before;
  ASSIGN_OR_RETURN(inspected_, form_->Inspect({first, assembler.received()}, *info_));
  return absl::OkStatus();
}

// The bytes of a body that was declared without tensors.
absl::StatusOr<Tensor> Exchange::TakeBody() {
  Assembler& assembler = call_->assembler();
  const size_t size = assembler.received();
  while (assembler.received() < size + form_->padding()) {
    ASSIGN_OR_RETURN(const absl::Span<std::byte> space, assembler.Space());
    const size_t left = size + form_->padding() - assembler.received();
    const absl::Span<std::byte> padding = space.first(std::min(space.size(), left));
    std::fill(padding.begin(), padding.end(), std::byte{0});
    assembler.Commit(padding.size());
  }
  ASSIGN_OR_RETURN(Tensor body, assembler.TakeBytes());
  body.meta.shape = {static_cast<int64_t>(size)};
  body.bytes = body.bytes.first(size);
  return body;
}

Async<absl::Status> Exchange::Submit() {
  if (declared_) {
    submitted_ = true;
    call_->Submit();
    co_return absl::OkStatus();
  }
  call_->EndUpload();
  absl::StatusOr<Tensor> body = TakeBody();
  if (!body.ok()) co_return body.status();
  const uint64_t size = body->bytes.size();
  absl::StatusOr<Question> question = co_await Run(*form_, size, [this, &body] {
    return form_->Decode(*std::move(body), *info_, engine_.pool(), workers_);
  });
  if (!question.ok()) co_return question.status();
  form_ = question->form;
  by_rows_ = question->by_rows;
  submitted_ = true;
  call_->Submit(std::move(question->tensors));
  co_return absl::OkStatus();
}

template <typename Work>
auto Exchange::Run(const Codec& codec, uint64_t size, Work work) -> Async<decltype(work())> {
  if (!codec.slow() || size < kMinForWorkers) co_return work();
  auto job = [&work]() -> asio::awaitable<decltype(work())> { co_return work(); };
  co_return co_await asio::co_spawn(workers_, job, kAwait);
}

// Waits a moment or until something happens.  Ends the call when its client is gone.
Async<void> Exchange::Pause() {
  boost::system::error_code ignored;
  wake_.expires_after(kLookAfterClient);
  co_await wake_.async_wait(asio::redirect_error(kAwait, ignored));
  if (result_ || client_left_ || !stream_.PeerLeft()) co_return;
  client_left_ = true;
  call_->Cancel(ClientLeft());
}

// ---- the way out

Async<absl::StatusOr<Answer>> Exchange::MakeAnswer() {
  if (!result_->ok()) co_return Error();
  const Response response = **std::move(result_);
  const absl::StatusOr<const Codec*> writer = ChooseWriter(head_.accept, *form_);
  if (!writer.ok()) co_return writer.status();
  const absl::Status fit = CheckOutputs(**writer, response.outputs.size());
  if (!fit.ok()) co_return fit;
  uint64_t size = 0;
  for (const Tensor& output : response.outputs) size += output.bytes.size();
  co_return co_await Run(**writer, size,
                         [&] { return (*writer)->Encode(response, by_rows_, engine_.pool()); });
}

// The call's error; a deadline that passed while the client was sending is the client's.
absl::Status Exchange::Error() const {
  const absl::Status& status = result_->status();
  if (submitted_ || !absl::IsDeadlineExceeded(status)) return status;
  return HttpError(408, status.code(), status.message());
}

}  // namespace millrace
