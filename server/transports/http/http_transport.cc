#include "server/transports/http/http_transport.h"

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>

#include <exception>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/thread_pool.hpp>

#include "server/core/clock.h"
#include "server/core/mutex.h"
#include "server/transports/http/session.h"

namespace millrace {

namespace asio = boost::asio;

class HttpTransport::Impl : public std::enable_shared_from_this<Impl> {
 public:
  Impl(HttpOptions options, Engine& engine)
      : options_(options), engine_(engine), workers_(static_cast<size_t>(options.codec_threads)) {}

  void Serve(Connection connection);
  void Drain();
  void WaitUntilClosed(absl::Duration timeout);
  void JoinWorkers() { workers_.join(); }

 private:
  bool Add(const std::shared_ptr<Session>& session);
  void Remove(const Session* session);

  const HttpOptions options_;
  Engine& engine_;
  asio::thread_pool workers_;

  Mutex mu_;
  CondVar closed_;  // sessions_ became empty
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  absl::flat_hash_map<const Session*, std::weak_ptr<Session>> sessions_ ABSL_GUARDED_BY(mu_);
};

void HttpTransport::Impl::Serve(Connection connection) {
  auto session = std::make_shared<Session>(options_, engine_, workers_, std::move(connection));
  if (!Add(session)) session->Drain();
  asio::co_spawn(
      session->executor(), Session::Run(session),
      [self = shared_from_this(), session](std::exception_ptr) { self->Remove(session.get()); });
}

void HttpTransport::Impl::Drain() {
  MutexLock lock(mu_);
  draining_ = true;
  for (const auto& [key, weak] : sessions_) {
    const std::shared_ptr<Session> session = weak.lock();
    if (session != nullptr) asio::post(session->executor(), [session] { session->Drain(); });
  }
}

// False: the server is draining.
bool HttpTransport::Impl::Add(const std::shared_ptr<Session>& session) {
  MutexLock lock(mu_);
  sessions_.emplace(session.get(), session);
  return !draining_;
}

void HttpTransport::Impl::Remove(const Session* session) {
  MutexLock lock(mu_);
  sessions_.erase(session);
  if (sessions_.empty()) closed_.NotifyAll();
}

void HttpTransport::Impl::WaitUntilClosed(absl::Duration timeout) {
  const absl::Time deadline = RealClock().Now() + timeout;
  MutexLock lock(mu_);
  while (!sessions_.empty()) {
    const absl::Duration left = deadline - RealClock().Now();
    if (left <= absl::ZeroDuration()) return;
    closed_.WaitFor(mu_, left);
  }
}

HttpTransport::HttpTransport(HttpOptions options, Engine& engine)
    : impl_(std::make_shared<Impl>(options, engine)) {}

HttpTransport::~HttpTransport() { impl_->JoinWorkers(); }

void HttpTransport::Serve(Connection connection) { impl_->Serve(std::move(connection)); }

void HttpTransport::Drain() { impl_->Drain(); }

void HttpTransport::WaitUntilClosed(absl::Duration timeout) { impl_->WaitUntilClosed(timeout); }

}  // namespace millrace
