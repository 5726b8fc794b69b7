#include "server/transports/acceptor.h"

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/strip.h>
#include <netinet/tcp.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>

#include "server/core/status_macros.h"

namespace millrace {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using Endpoint = asio::generic::stream_protocol::endpoint;

// RFC 9113, section 3.4.
constexpr absl::string_view kHttp2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

constexpr std::chrono::milliseconds kRetryAccept{100};

enum class Protocol { kUnknown, kHttp2, kOther };

Protocol Recognise(absl::string_view bytes) {
  if (absl::StartsWith(bytes, kHttp2Preface)) return Protocol::kHttp2;
  return absl::StartsWith(kHttp2Preface, bytes) ? Protocol::kUnknown : Protocol::kOther;
}

absl::Status CannotListen(absl::string_view bind, absl::string_view why) {
  return absl::FailedPreconditionError(
      absl::StrCat("cannot listen on ", bind, ": ", why, "; choose another address with --bind"));
}

absl::StatusOr<Endpoint> ParseTcp(absl::string_view bind) {
  const size_t colon = bind.rfind(':');
  if (colon == absl::string_view::npos)
    return CannotListen(bind, "it is neither HOST:PORT nor unix:PATH");
  absl::string_view host = bind.substr(0, colon);
  int port = -1;
  if (!absl::SimpleAtoi(bind.substr(colon + 1), &port) || port < 0 || port > 65535) {
    return CannotListen(bind, "the port is no number from 0 to 65535");
  }
  if (absl::ConsumePrefix(&host, "[")) absl::ConsumeSuffix(&host, "]");
  error_code error;
  asio::io_context resolving;
  asio::ip::tcp::resolver resolver(resolving);
  const auto found =
      resolver.resolve(host.empty() ? "0.0.0.0" : std::string(host), std::to_string(port), error);
  if (error || found.empty()) return CannotListen(bind, "the host is unknown");
  return Endpoint(found.begin()->endpoint());
}

// Removes the socket of a server that is no more; a socket that answers stays, and binding will
// fail.
void RemoveStaleSocket(const std::string& path) {
  struct stat info;
  if (lstat(path.c_str(), &info) != 0 || !S_ISSOCK(info.st_mode)) return;
  error_code error;
  asio::io_context probing;
  asio::local::stream_protocol::socket probe(probing);
  probe.connect(path, error);
  if (error == asio::error::connection_refused) unlink(path.c_str());
}

std::string ToString(const asio::ip::tcp::endpoint& endpoint) {
  asio::ip::address address = endpoint.address();
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    address = make_address_v4(asio::ip::v4_mapped, address.to_v6());
  return address.is_v6() ? absl::StrCat("[", address.to_string(), "]:", endpoint.port())
                         : absl::StrCat(address.to_string(), ":", endpoint.port());
}

// "unix" for a unix socket.
std::string ToString(const Endpoint& endpoint) {
  asio::ip::tcp::endpoint tcp;
  const int family = endpoint.protocol().family();
  if ((family != AF_INET && family != AF_INET6) || endpoint.size() > tcp.capacity()) return "unix";
  std::memcpy(tcp.data(), endpoint.data(), endpoint.size());
  return ToString(tcp);
}

// Small answers leave at once, and a peer that is gone is noticed within a minute, not in hours.  A
// unix socket has no such options, and needs none.
void SetTcpOptions(Socket& socket) {
  constexpr struct {
    int level, name, value;
  } kOptions[] = {
      {IPPROTO_TCP, TCP_NODELAY, 1},           {SOL_SOCKET, SO_KEEPALIVE, 1},
      {IPPROTO_TCP, TCP_KEEPIDLE, 30},          // seconds of silence before the first probe,
      {IPPROTO_TCP, TCP_KEEPINTVL, 10},         // between probes,
      {IPPROTO_TCP, TCP_KEEPCNT, 2},            // and how many may fail
      {IPPROTO_TCP, TCP_USER_TIMEOUT, 50'000},  // milliseconds that sent bytes may be
                                                // unacknowledged
  };
  for (const auto& option : kOptions) {
    setsockopt(socket.native_handle(), option.level, option.name, &option.value,
               sizeof option.value);
  }
}

}  // namespace

class Acceptor::Listener : public std::enable_shared_from_this<Listener> {
 public:
  Listener(Acceptor& owner, std::string unix_path)
      : options_(owner.options_),
        threads_(owner.threads_),
        on_grpc_(owner.on_grpc_),
        on_http_(owner.on_http_),
        connections_(owner.connections_),
        unix_path_(std::move(unix_path)),
        socket_(threads_.first().get_executor()),
        timer_(threads_.first().get_executor()) {}

  error_code Open(const Endpoint& endpoint) {
    error_code error;
    socket_.open(endpoint.protocol(), error);
    if (!error && unix_path_.empty())
      socket_.set_option(asio::socket_base::reuse_address(true), error);
    if (!error) socket_.bind(endpoint, error);
    if (!error) socket_.listen(asio::socket_base::max_listen_connections, error);
    bound_ = !error;
    return error;
  }

  std::string address() const {
    return unix_path_.empty() ? ToString(socket_.local_endpoint()) : "unix:" + unix_path_;
  }

  void Start() {
    asio::co_spawn(
        socket_.get_executor(), [self = shared_from_this()] { return self->AcceptLoop(); },
        asio::detached);
  }

  void Stop() {
    if (bound_ && !unix_path_.empty()) unlink(unix_path_.c_str());
    bound_ = false;
    asio::post(socket_.get_executor(), [self = shared_from_this()] {
      error_code ignored;
      self->socket_.close(ignored);
      self->timer_.cancel();
    });
  }

 private:
  Async<void> AcceptLoop() {
    while (socket_.is_open()) {
      Socket socket(threads_.Next());
      Endpoint peer;
      error_code error;
      co_await socket_.async_accept(socket, peer, asio::redirect_error(kAwait, error));
      if (!error) {
        Take(std::move(socket), peer);
      } else if (error != asio::error::operation_aborted &&
                 error != asio::error::connection_aborted) {
        spdlog::warn("cannot accept a connection now: {}", error.message());
        timer_.expires_after(kRetryAccept);
        co_await timer_.async_wait(asio::redirect_error(kAwait, error));
      }
    }
  }

  void Take(Socket socket, const Endpoint& peer) {
    if (connections_->load() >= options_.max_connections) {
      spdlog::warn("closed a connection from {}: {} are open (--max-connections)", ToString(peer),
                   connections_->load());
      return;
    }
    ++*connections_;
    std::shared_ptr<void> place(nullptr, [connections = connections_](void*) { --*connections; });
    SetTcpOptions(socket);
    const auto executor = socket.get_executor();
    Connection connection{std::move(socket), "", ToString(peer), std::move(place)};
    asio::co_spawn(executor, Dispatch(shared_from_this(), std::move(connection)), asio::detached);
  }

  static Async<void> Dispatch(std::shared_ptr<Listener> self, Connection connection) {
    using asio::experimental::awaitable_operators::operator||;
    Timer timer(connection.socket.get_executor());
    timer.expires_after(absl::ToChronoNanoseconds(self->options_.first_bytes_timeout));
    Protocol protocol = Protocol::kUnknown;
    char bytes[64];
    while (protocol == Protocol::kUnknown) {
      error_code read_error, timer_error;
      const auto winner =
          co_await (connection.socket.async_read_some(asio::buffer(bytes),
                                                      asio::redirect_error(kAwait, read_error)) ||
                    timer.async_wait(asio::redirect_error(kAwait, timer_error)));
      if (winner.index() == 1 || read_error) co_return;
      connection.first_bytes.append(bytes, std::get<0>(winner));
      protocol = Recognise(connection.first_bytes);
    }
    const Handler& handler = protocol == Protocol::kHttp2 ? self->on_grpc_ : self->on_http_;
    handler(std::move(connection));
  }

  // Copies, since accept loops and connections may end after the acceptor.
  const AcceptorOptions options_;
  IoThreads& threads_;
  const Handler on_grpc_;
  const Handler on_http_;
  const std::shared_ptr<std::atomic<int>> connections_;
  const std::string unix_path_;

  asio::basic_socket_acceptor<asio::generic::stream_protocol, Executor> socket_;
  Timer timer_;
  bool bound_ = false;
};

Acceptor::Acceptor(AcceptorOptions options, IoThreads& threads, Handler on_grpc, Handler on_http)
    : options_(std::move(options)),
      threads_(threads),
      on_grpc_(std::move(on_grpc)),
      on_http_(std::move(on_http)),
      connections_(std::make_shared<std::atomic<int>>(0)) {}

Acceptor::~Acceptor() { Stop(); }

absl::Status Acceptor::Listen() {
  for (const std::string& bind : options_.binds) {
    absl::string_view unix_path = bind;
    const bool is_unix = absl::ConsumePrefix(&unix_path, "unix:");
    auto listener = std::make_shared<Listener>(*this, is_unix ? std::string(unix_path) : "");
    Endpoint endpoint;
    if (is_unix) {
      if (unix_path.empty() || unix_path.size() > 107)
        return CannotListen(bind, "a unix path has 1 to 107 bytes");
      RemoveStaleSocket(std::string(unix_path));
      endpoint = asio::local::stream_protocol::endpoint(std::string(unix_path));
    } else {
      ASSIGN_OR_RETURN(endpoint, ParseTcp(bind));
    }
    if (const error_code error = listener->Open(endpoint))
      return CannotListen(bind, error.message());
    addresses_.push_back(listener->address());
    listeners_.push_back(std::move(listener));
  }
  return absl::OkStatus();
}

void Acceptor::Start() {
  for (const auto& listener : listeners_) listener->Start();
}

void Acceptor::Stop() {
  for (const auto& listener : listeners_) listener->Stop();
}

}  // namespace millrace
