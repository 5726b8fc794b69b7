#include "server/transports/http/session.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>

#include <array>
#include <chrono>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include <boost/asio/buffer.hpp>

#include "server/core/probe.h"
#include "server/core/status_macros.h"
#include "server/transports/http/exchange.h"
#include "server/transports/http/http_error.h"
#include "server/transports/http/pages.h"

namespace millrace {
namespace {

namespace asio = boost::asio;

absl::Status WrongMethod(const RequestHead& head, Page page) {
  return HttpError(405, absl::StatusCode::kUnimplemented,
                   absl::StrCat("the method ", Printable(head.method),
                                " is not understood here; use ", AllowedMethods(page)));
}

// The answer, or the error as one.
Answer AnswerOf(absl::StatusOr<Answer> answer) {
  return answer.ok() ? *std::move(answer) : ErrorAnswer(answer.status());
}

Persistence HowItGoesOn(const RequestHead& head, bool keep) {
  if (!keep) return Persistence::kClose;
  return head.http_1_0 ? Persistence::kKeepAliveHttp10 : Persistence::kKeepAlive;
}

asio::const_buffer Bytes(const Tensor& tensor) {
  return asio::buffer(tensor.bytes.data(), tensor.bytes.size());
}

}  // namespace

Session::Session(const HttpOptions& options, Engine& engine, asio::thread_pool& workers,
                 Connection connection)
    : options_(options),
      engine_(engine),
      workers_(workers),
      stream_(std::make_shared<Stream>(std::move(connection.socket), connection.first_bytes,
                                       options.turn_size)),
      place_(std::move(connection.place)) {}

Async<void> Session::Run(std::shared_ptr<Session> self) {
  try {
    while (co_await self->ServeRequest()) {
    }
    co_await self->stream_->Linger(self->options_.linger_bytes,
                                   self->After(self->options_.linger_timeout));
  } catch (const std::exception&) {
    // Out of memory: the connection is all that there is to give up.
  }
  self->stream_->Close();
}

void Session::Drain() {
  draining_ = true;
  if (idle_) stream_->Interrupt();
}

Stream::Deadline Session::After(absl::Duration duration) const {
  return std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(duration);
}

// False: the connection is to be closed.
Async<bool> Session::ServeRequest() {
  if (!co_await AwaitRequest()) co_return false;
  const absl::StatusOr<MaybeHead> head = co_await ReadHead();
  if (!head.ok()) {
    const RequestHead unknown;
    Report(head.status());
    const Answer answer = ErrorAnswer(head.status());
    co_return co_await Send(answer, unknown, false);
  }
  if (!head->has_value()) co_return false;
  co_return co_await Handle(**head);
}

// ---- the header

// False when no more requests come, or may come.
Async<bool> Session::AwaitRequest() {
  const Stream::Deadline deadline = After(options_.idle_timeout);
  while (true) {
    while (absl::StartsWith(stream_->ahead(), "\r\n")) stream_->Consume(2);
    if (!stream_->ahead().empty()) co_return true;
    if (draining_) co_return false;
    idle_ = true;
    const absl::StatusOr<size_t> size = co_await stream_->ReadAhead(deadline);
    idle_ = false;
    if (absl::IsCancelled(size.status())) continue;
    if (!size.ok() || *size == 0) co_return false;
  }
}

// Nothing when the client leaves before the end of it.
Async<absl::StatusOr<Session::MaybeHead>> Session::ReadHead() {
  const Stream::Deadline deadline = After(options_.header_timeout);
  size_t searched = 0;
  while (true) {
    absl::StatusOr<MaybeHead> head = TakeHead(searched);
    if (!head.ok() || head->has_value()) co_return head;
    searched = stream_->ahead().size();
    const absl::StatusOr<size_t> size = co_await stream_->ReadAhead(deadline);
    if (absl::IsCancelled(size.status())) continue;
    if (absl::IsDeadlineExceeded(size.status())) co_return HeadTimeout();
    if (!size.ok() || *size == 0) co_return MaybeHead();
  }
}

absl::StatusOr<Session::MaybeHead> Session::TakeHead(size_t searched) {
  ASSIGN_OR_RETURN(const std::optional<size_t> size, FindHead(stream_->ahead(), searched));
  if (!size) return MaybeHead();
  ASSIGN_OR_RETURN(RequestHead head, ParseHead(stream_->ahead().substr(0, *size)));
  stream_->Consume(*size);
  return MaybeHead(std::move(head));
}

absl::Status Session::HeadTimeout() const {
  return HttpError(408, absl::StatusCode::kDeadlineExceeded,
                   absl::StrCat("the header was not complete after ",
                                absl::FormatDuration(options_.header_timeout)));
}

// ---- the request

Async<bool> Session::Handle(const RequestHead& head) {
  const absl::StatusOr<Target> target = ParseTarget(head.target);
  if (!target.ok()) co_return co_await Refuse(target.status(), head);
  const absl::StatusOr<Route> route = FindRoute(target->path);
  if (!route.ok()) co_return co_await Refuse(route.status(), head);
  if (!Allows(route->page, head.method)) {
    Answer answer = ErrorAnswer(WrongMethod(head, route->page));
    answer.fields.emplace_back("Allow", std::string(AllowedMethods(route->page)));
    co_return co_await Send(answer, head, !head.has_body());
  }
  if (route->page == Page::kPredict) co_return co_await Predict(head, *target, *route);
  const Answer page = AnswerOf(GetPage(*route, engine_));
  co_return co_await Send(page, head, !head.has_body());
}

Async<bool> Session::Predict(const RequestHead& head, const Target& target, const Route& route) {
  auto exchange = std::make_shared<Exchange>(engine_, workers_, *stream_, head, target, route);
  absl::StatusOr<Answer> result = absl::InternalError("the server failed");
  try {
    result = co_await exchange->Run();
  } catch (const std::bad_alloc&) {
    result = absl::ResourceExhaustedError("the server is out of memory; try again later");
  }
  if (exchange->client_left()) co_return false;
  Answer answer = AnswerOf(std::move(result));
  answer.fields.emplace_back("Server-Timing", ServerTiming(exchange->timing()));
  if (!head.request_id.empty()) answer.fields.emplace_back("Millrace-Request-Id", head.request_id);
  const bool body_done = exchange->body_done();
  exchange.reset();  // The inputs' memory is not needed for the answer.
  co_return co_await Send(answer, head, body_done);
}

Async<bool> Session::Refuse(const absl::Status& status, const RequestHead& head) {
  Report(status);
  const Answer answer = ErrorAnswer(status);
  co_return co_await Send(answer, head, !head.has_body());
}

// The connection goes on only from where the next request begins.
Async<bool> Session::Send(const Answer& answer, const RequestHead& head, bool body_done) {
  const bool keep = head.keep_alive && body_done && !draining_;
  const std::string text = FormatHead(answer, HowItGoesOn(head, keep));
  std::array<asio::const_buffer, 3> parts = {asio::buffer(text)};
  if (head.method != "HEAD") {
    parts[1] = asio::buffer(answer.text);
    if (answer.tensor) parts[2] = Bytes(*answer.tensor);
  }
  Buffers buffers = absl::MakeSpan(parts);
  absl::Status sent = stream_->WriteSome(buffers);
  if (sent.ok() && !buffers.empty()) {
    sent = co_await stream_->Write(buffers, absl::ToChronoNanoseconds(options_.write_timeout));
  }
  co_return keep&& sent.ok();
}

// Counts a request that did not get as far as the engine.
void Session::Report(const absl::Status& status) {
  const absl::StatusOr<std::shared_ptr<Call>> call =
      engine_.Open("http", [](const absl::StatusOr<Response>&) {});
  if (call.ok()) (*call)->Cancel(status);
}

}  // namespace millrace
