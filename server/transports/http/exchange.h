// One prediction over HTTP, from the header of the request to the answer.
//
//   Prepare -> Admit -> ["100 Continue"] -> Receive -> [Decode] -> Submit -> wait -> Encode
//
// The engine may end the call at any time: the exchange then stops where it is and answers with
// what the engine said. An error of its own ends the call in the engine first, so that there is one
// way to an answer, and every request is reported once.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <memory>
#include <optional>
#include <utility>

#include <boost/asio/thread_pool.hpp>

#include "server/core/engine.h"
#include "server/transports/http/answer.h"
#include "server/transports/http/body_reader.h"
#include "server/transports/http/codec.h"
#include "server/transports/http/request_head.h"
#include "server/transports/http/router.h"
#include "server/transports/http/stream.h"

namespace millrace {

// Everything runs on the stream's thread, but for large JSON texts, which are decoded and encoded
// by the workers.
//
// Shared by the session and, for the time of a callback, by the engine.
class Exchange : public std::enable_shared_from_this<Exchange> {
 public:
  // All of them must outlive Run().
  Exchange(Engine& engine, boost::asio::thread_pool& workers, Stream& stream,
           const RequestHead& head, const Target& target, const Route& route);
  ~Exchange();

  // Once.  An error is one to answer with.
  Async<absl::StatusOr<Answer>> Run();

  // All of the body was read: the stream is at the next request.
  bool body_done() const { return body_.done(); }

  // Nobody waits for the answer.
  bool client_left() const { return client_left_; }

  // As Call; zero before Run().
  Timing timing() const { return call_ ? call_->timing() : Timing{}; }

 private:
  absl::Status Open();
  absl::StatusOr<Declaration> Prepare();
  void Admit(Declaration declaration);
  Async<absl::Status> Upload();
  Async<absl::Status> SayContinue();
  Async<absl::Status> Receive();
  absl::StatusOr<absl::Span<std::byte>> Space();
  absl::Status Received(absl::Span<const std::byte> space, const absl::StatusOr<size_t>& size);
  absl::Status Commit(absl::Span<const std::byte> space, size_t size);
  absl::StatusOr<Tensor> TakeBody();
  Async<absl::Status> Submit();
  Async<void> Pause();
  Async<absl::StatusOr<Answer>> MakeAnswer();
  absl::Status Error() const;

  template <typename Work>
  auto Run(const Codec& codec, uint64_t size, Work work) -> Async<decltype(work())>;

  void OnAdmitted();
  void OnDone(absl::StatusOr<Response> result);

  Engine& engine_;
  boost::asio::thread_pool& workers_;
  Stream& stream_;
  const RequestHead& head_;
  const Target& target_;
  const Route& route_;
  const Executor executor_;
  Timer wake_;
  BodyReader body_;

  absl::StatusOr<const Codec*> reader_;
  const Codec* form_ = nullptr;  // in which the answer goes back unless Accept says otherwise
  bool by_rows_ = false;
  std::optional<BodyInfo> info_;
  std::byte beyond_;        // for the end of a chunked body, whose bytes were all received
  bool declared_ = false;   // the call knows its tensors
  bool inspected_ = false;  // the body's first bytes are fit

  std::shared_ptr<Call> call_;
  bool admitted_ = false;
  bool receiving_ = false;
  bool submitted_ = false;
  bool client_left_ = false;
  std::optional<absl::StatusOr<Response>> result_;  // once the call has ended
};

}  // namespace millrace
