// One HTTP/1.1 connection: its requests one after another, each answered before the next is read.
#pragma once

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include <memory>
#include <optional>

#include <boost/asio/thread_pool.hpp>

#include "server/core/engine.h"
#include "server/transports/connection.h"
#include "server/transports/http/answer.h"
#include "server/transports/http/http_transport.h"
#include "server/transports/http/request_head.h"
#include "server/transports/http/router.h"
#include "server/transports/http/stream.h"

namespace millrace {

// Runs on the connection's thread.
//
// Its coroutines take no objects by value: GCC 12 destroys such a parameter at a wrong address when
// it is made within the co_await expression.
class Session {
 public:
  // All of them must outlive it.
  Session(const HttpOptions& options, Engine& engine, boost::asio::thread_pool& workers,
          Connection connection);

  // Serves until the connection is closed.  Once.
  static Async<void> Run(std::shared_ptr<Session> self);

  // Ends with the request that is under way, or at once if there is none.
  void Drain();

  const Executor& executor() { return stream_->executor(); }

 private:
  using MaybeHead = std::optional<RequestHead>;

  Async<bool> ServeRequest();
  Async<bool> AwaitRequest();
  Async<absl::StatusOr<MaybeHead>> ReadHead();
  absl::StatusOr<MaybeHead> TakeHead(size_t searched);
  absl::Status HeadTimeout() const;

  Async<bool> Handle(const RequestHead& head);
  Async<bool> Predict(const RequestHead& head, const Target& target, const Route& route);
  Async<bool> Refuse(const absl::Status& status, const RequestHead& head);
  Async<bool> Send(const Answer& answer, const RequestHead& head, bool body_done);
  void Report(const absl::Status& status);

  Stream::Deadline After(absl::Duration duration) const;

  const HttpOptions& options_;
  Engine& engine_;
  boost::asio::thread_pool& workers_;
  const std::shared_ptr<Stream> stream_;
  const std::shared_ptr<void> place_;
  bool idle_ = false;  // waits for the first byte of a request
  bool draining_ = false;
};

}  // namespace millrace
