#include "server/transports/grpc/connections.h"

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <absl/strings/strip.h>
#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>
#include <vector>

namespace millrace {
namespace {

constexpr absl::string_view kUnix = "unix";

// "ipv4:127.0.0.1:40312" and "ipv6:%5B::1%5D:40312" as Connection::peer has them.
std::string PeerName(absl::string_view grpc_peer) {
  if (absl::StartsWith(grpc_peer, kUnix)) return std::string(kUnix);
  absl::ConsumePrefix(&grpc_peer, "ipv4:");
  absl::ConsumePrefix(&grpc_peer, "ipv6:");
  return absl::StrReplaceAll(grpc_peer, {{"%5B", "["}, {"%5D", "]"}});
}

}  // namespace

struct GrpcConnections::State {
  State(const GrpcConnectionLimits& connection_limits, const Clock& connection_clock,
        int watched_fd)
      : limits(connection_limits), clock(connection_clock), fd(watched_fd) {}
  ~State() { close(fd); }

  const GrpcConnectionLimits limits;
  const Clock& clock;
  const int fd;
  std::string peer;
  std::shared_ptr<void> place;  // dropped at the connection's end, before the last call's

  Mutex mu;
  int calls ABSL_GUARDED_BY(mu) = 0;
  int early_resets ABSL_GUARDED_BY(mu) = 0;
  absl::Time period_start ABSL_GUARDED_BY(mu) = clock.Now();
};

// The calls on all connections.
struct GrpcConnections::Calls {
  void Add(int change) {
    MutexLock lock(mu);
    count += change;
    if (count == 0) empty.NotifyAll();
  }

  Mutex mu;
  CondVar empty;
  int count ABSL_GUARDED_BY(mu) = 0;
};

GrpcConnections::Place::Place(std::shared_ptr<Calls> calls, std::shared_ptr<State> connection)
    : connection_(std::move(connection)) {
  calls->Add(1);
  counted_ =
      std::shared_ptr<void>(nullptr, [calls = std::move(calls), counted = connection_](void*) {
        if (counted != nullptr) {
          MutexLock lock(counted->mu);
          --counted->calls;
        }
        calls->Add(-1);
      });
}

void GrpcConnections::Place::CountEarlyReset() {
  if (connection_ == nullptr) return;
  State& connection = *connection_;
  MutexLock lock(connection.mu);
  const absl::Time now = connection.clock.Now();
  if (now >= connection.period_start + connection.limits.reset_period) {
    connection.period_start = now;
    connection.early_resets = 0;
  }
  if (++connection.early_resets != connection.limits.max_early_resets + 1) return;
  spdlog::warn("closed the connection from {}: it cancelled {} calls before their first message",
               connection.peer, connection.early_resets);
  shutdown(connection.fd, SHUT_RDWR);
}

GrpcConnections::GrpcConnections(GrpcConnectionLimits limits, boost::asio::io_context& io,
                                 const Clock& clock)
    : limits_(limits),
      clock_(clock),
      calls_(std::make_shared<Calls>()),
      epoll_(io, epoll_create1(EPOLL_CLOEXEC)) {
  Watch();
}

GrpcConnections::~GrpcConnections() = default;

absl::Status GrpcConnections::Add(absl::string_view peer, int fd, std::shared_ptr<void> place) {
  const int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) return absl::ResourceExhaustedError("no descriptor left for a connection");
  auto state = std::make_shared<State>(limits_, clock_, copy);
  state->peer = std::string(peer);
  state->place = std::move(place);
  MutexLock lock(mu_);
  by_fd_[copy] = state;
  if (peer != kUnix) by_peer_[state->peer] = state;
  epoll_event event = {};
  event.events = EPOLLRDHUP;  // The peer has ended it; our own end is reported all the same.
  event.data.fd = copy;
  epoll_ctl(epoll_.native_handle(), EPOLL_CTL_ADD, copy, &event);
  return absl::OkStatus();
}

absl::StatusOr<GrpcConnections::Place> GrpcConnections::Enter(absl::string_view grpc_peer) {
  std::shared_ptr<State> connection;
  {
    MutexLock lock(mu_);
    const auto it = by_peer_.find(PeerName(grpc_peer));
    if (it == by_peer_.end()) return Place(calls_, nullptr);
    connection = it->second;
  }
  {
    MutexLock lock(connection->mu);
    if (connection->calls >= limits_.max_calls) {
      return absl::ResourceExhaustedError(
          absl::StrCat("this connection has ", connection->calls,
                       " calls open, which is the limit; open another one"));
    }
    ++connection->calls;
  }
  return Place(calls_, std::move(connection));
}

void GrpcConnections::WaitUntilEmpty(absl::Duration timeout) {
  const absl::Time deadline = clock_.Now() + timeout;
  MutexLock lock(calls_->mu);
  while (calls_->count > 0 && clock_.Now() < deadline)
    calls_->empty.WaitFor(calls_->mu, deadline - clock_.Now());
}

void GrpcConnections::Watch() {
  epoll_.async_wait(boost::asio::posix::stream_descriptor::wait_read,
                    [this](const boost::system::error_code& error) {
                      if (error) return;
                      RemoveEnded();
                      Watch();
                    });
}

void GrpcConnections::RemoveEnded() {
  epoll_event events[64];
  const int count = epoll_wait(epoll_.native_handle(), events, 64, 0);
  std::vector<std::shared_ptr<State>> ended;
  MutexLock lock(mu_);
  for (int i = 0; i < count; ++i) {
    const auto it = by_fd_.find(events[i].data.fd);
    if (it == by_fd_.end()) continue;
    State& state = *it->second;
    epoll_ctl(epoll_.native_handle(), EPOLL_CTL_DEL, state.fd, nullptr);
    state.place.reset();
    if (const auto named = by_peer_.find(state.peer);
        named != by_peer_.end() && named->second == it->second) {
      by_peer_.erase(named);
    }
    ended.push_back(std::move(it->second));
    by_fd_.erase(it);
  }
}

}  // namespace millrace
