// A whole HTTP server over loopback with a fake model, and a client that says exactly what a test
// wants.
#pragma once

#include <absl/strings/match.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "server/core/engine.h"
#include "server/models/identity.h"
#include "server/transports/http/http_transport.h"
#include "server/transports/io_threads.h"
#include "tests/fakes/fake_model.h"

namespace millrace {

struct HttpReply {
  int status = 0;  // 0: the connection ended
  std::string head;
  std::string body;

  // The value of a field, empty if there is none.
  std::string Field(absl::string_view name) const {
    const size_t at = head.find(absl::StrCat("\r\n", name, ": "));
    if (at == std::string::npos) return "";
    const size_t begin = at + name.size() + 4;
    return head.substr(begin, head.find("\r\n", begin) - begin);
  }
};

// Blocks, for ten seconds at most.
class HttpClient {
 public:
  explicit HttpClient(boost::asio::ip::tcp::socket socket) : socket_(std::move(socket)) {
    const timeval timeout = {10, 0};
    setsockopt(socket_.native_handle(), SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  }

  void Send(absl::string_view text) {
    while (!text.empty()) {
      const ssize_t sent = send(socket_.native_handle(), text.data(), text.size(), MSG_NOSIGNAL);
      if (sent <= 0) return;
      text.remove_prefix(static_cast<size_t>(sent));
    }
  }

  // The next reply; its body is read unless it is the answer to a HEAD.
  HttpReply Receive(bool head_only = false) {
    HttpReply reply;
    size_t end = 0;
    while ((end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (!More()) return reply;
    }
    reply.head = Take(end + 4);
    EXPECT_TRUE(absl::SimpleAtoi(reply.head.substr(9, 3), &reply.status)) << reply.head;
    size_t length = 0;
    if (head_only || !absl::SimpleAtoi(reply.Field("Content-Length"), &length)) return reply;
    while (buffer_.size() < length && More()) {
    }
    reply.body = Take(length);
    return reply;
  }

  HttpReply Ask(absl::string_view text) {
    Send(text);
    return Receive();
  }

  // True once the server has closed the connection properly, with nothing more to read.
  bool AtEnd() { return buffer_.empty() && !More() && last_read_ == 0; }

  void Close() { socket_.close(); }

  // Closes with a reset in place of a proper end.
  void Reset() {
    socket_.set_option(boost::asio::socket_base::linger(true, 0));
    socket_.close();
  }

 private:
  bool More() {
    char bytes[64 << 10];
    last_read_ = recv(socket_.native_handle(), bytes, sizeof(bytes), 0);
    if (last_read_ > 0) buffer_.append(bytes, static_cast<size_t>(last_read_));
    return last_read_ > 0;
  }

  std::string Take(size_t size) {
    std::string taken = buffer_.substr(0, size);
    buffer_.erase(0, size);
    return taken;
  }

  boost::asio::ip::tcp::socket socket_;
  std::string buffer_;
  ssize_t last_read_ = 1;
};

// Remembers how calls ended.  Thread-safe.
class WaitingProbe final : public EngineProbe {
 public:
  void OnCallDone(const CallReport& report) override {
    MutexLock lock(mu_);
    codes_.push_back(report.status.code());
    ways_.emplace_back(report.way);
    changed_.NotifyAll();
  }

  // The code of the call that ended as number `index`, once it has.
  absl::StatusCode CodeOf(size_t index) {
    MutexLock lock(mu_);
    while (codes_.size() <= index) changed_.Wait(mu_);
    return codes_[index];
  }

  std::vector<std::string> ways() {
    MutexLock lock(mu_);
    return ways_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  std::vector<absl::StatusCode> codes_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> ways_ ABSL_GUARDED_BY(mu_);
};

class HttpTest : public testing::Test {
 protected:
  HttpTest() {
    auto model = std::make_unique<FakeModel>();
    model_ = model.get();
    EXPECT_TRUE(registry_.Add(std::move(model)).ok());
    EXPECT_TRUE(registry_.Add(MakeIdentity()).ok());
    engine_options_.threads = 1;
  }

  ~HttpTest() override {
    model_->Release();
    if (!engine_) return;
    transport_->Drain();
    engine_->Drain(absl::ZeroDuration());
    threads_.Stop();
    transport_.reset();
  }

  HttpClient Connect(std::string first_bytes = "") {
    namespace asio = boost::asio;
    if (!engine_) Start();
    asio::ip::tcp::socket client(client_io_);
    client.connect(listener_.local_endpoint());
    Socket server(threads_.first());
    listener_.accept(server);
    server.non_blocking(true);
    closed_ = std::make_shared<std::atomic<bool>>(false);
    std::shared_ptr<void> place(nullptr, [closed = closed_](void*) { *closed = true; });
    transport_->Serve({std::move(server), std::move(first_bytes), "test", std::move(place)});
    return HttpClient(std::move(client));
  }

  // Blocks until the server has closed the newest connection.
  void WaitForClose() {
    while (!*closed_) std::this_thread::yield();
  }

  static std::string Floats(std::vector<float> values) {
    std::string bytes(values.size() * sizeof(float), '\0');
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }

  static std::string Post(absl::string_view target, absl::string_view body,
                          absl::string_view fields = "") {
    return absl::StrCat("POST ", target, " HTTP/1.1\r\nHost: a\r\n", fields,
                        "Content-Length: ", body.size(), "\r\n\r\n", body);
  }

  static std::string PostJson(absl::string_view target, absl::string_view body) {
    return Post(target, body, "Content-Type: application/json\r\n");
  }

  static std::string Get(absl::string_view target) {
    return absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: a\r\n\r\n");
  }

  // Set before the first Connect().
  HttpOptions options_;
  EngineOptions engine_options_;
  SlabPoolOptions pool_options_;

  // In the order in which they must outlive each other: what is left of sessions goes with the
  // threads.
  WaitingProbe probe_;
  Registry registry_;
  FakeModel* model_;
  std::optional<SlabPool> pool_;
  std::optional<Engine> engine_;
  IoThreads threads_{1};
  std::optional<HttpTransport> transport_;

 private:
  void Start() {
    pool_.emplace(pool_options_);
    engine_.emplace(engine_options_, *pool_, registry_, probe_);
    transport_.emplace(options_, *engine_);
  }

  boost::asio::io_context client_io_;
  boost::asio::ip::tcp::acceptor listener_{client_io_,
                                           {boost::asio::ip::address_v4::loopback(), 0}};
  std::shared_ptr<std::atomic<bool>> closed_;  // also owned by the newest connection's place
};

}  // namespace millrace
