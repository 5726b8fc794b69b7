#include "server/transports/acceptor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <future>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/write.hpp>

#include "server/core/mutex.h"

namespace millrace {
namespace {

namespace asio = boost::asio;
using boost::system::error_code;
using testing::HasSubstr;

constexpr char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

class AcceptorTest : public testing::Test {
 protected:
  ~AcceptorTest() override {
    if (acceptor_ != nullptr) acceptor_->Stop();
    threads_.Stop();
    connections_.clear();
  }

  absl::Status Start(AcceptorOptions options = {.binds = {"127.0.0.1:0"}}) {
    acceptor_ = std::make_unique<Acceptor>(
        options, threads_, [this](Connection connection) { Take("grpc ", std::move(connection)); },
        [this](Connection connection) { Take("http ", std::move(connection)); });
    if (absl::Status status = acceptor_->Listen(); !status.ok()) return status;
    acceptor_->Start();
    return absl::OkStatus();
  }

  asio::ip::tcp::socket Connect() {
    const std::string& address = acceptor_->addresses().front();
    const auto port = static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
    asio::ip::tcp::socket socket(client_io_);
    socket.connect({asio::ip::make_address("127.0.0.1"), port});
    return socket;
  }

  // What the next connection was taken for, and its first bytes.
  std::string NextTaken() {
    MutexLock lock(mu_);
    while (taken_.empty()) changed_.Wait(mu_);
    std::string taken = taken_.front();
    taken_.erase(taken_.begin());
    return taken;
  }

  static bool IsClosed(asio::ip::tcp::socket& socket) {
    char byte;
    error_code error;
    asio::read(socket, asio::buffer(&byte, 1), error);
    return static_cast<bool>(error);
  }

  void Take(const std::string& kind, Connection connection) {
    MutexLock lock(mu_);
    taken_.push_back(kind + connection.first_bytes);
    connections_.push_back(std::move(connection));
    changed_.NotifyAll();
  }

  asio::io_context client_io_;
  IoThreads threads_{2};
  std::unique_ptr<Acceptor> acceptor_;
  Mutex mu_;
  CondVar changed_;
  std::vector<std::string> taken_ ABSL_GUARDED_BY(mu_);
  std::vector<Connection> connections_;
};

TEST_F(AcceptorTest, TellsProtocolsByTheirFirstBytes) {
  ASSERT_TRUE(Start().ok());
  auto http = Connect();
  asio::write(http, asio::buffer("POST / HTTP/1.1\r\n", 17));
  EXPECT_EQ(NextTaken(), "http POST / HTTP/1.1\r\n");
  auto grpc = Connect();
  asio::write(grpc, asio::buffer(kPreface, 24));
  EXPECT_EQ(NextTaken(), std::string("grpc ") + kPreface);
}

TEST_F(AcceptorTest, TellsProtocolsByteByByte) {
  ASSERT_TRUE(Start().ok());
  auto grpc = Connect();
  for (size_t i = 0; i < 24; ++i) asio::write(grpc, asio::buffer(kPreface + i, 1));
  EXPECT_EQ(NextTaken(), std::string("grpc ") + kPreface);
  auto http = Connect();
  for (const char c : {'P', 'R', 'I', 'X'}) asio::write(http, asio::buffer(&c, 1));
  EXPECT_EQ(NextTaken(), "http PRIX");
}

TEST_F(AcceptorTest, ConnectionsTakeTurnsAmongTheThreads) {
  ASSERT_TRUE(Start().ok());
  std::vector<asio::ip::tcp::socket> clients;
  for (int i = 0; i < 3; ++i) {
    clients.push_back(Connect());
    asio::write(clients.back(), asio::buffer("GET", 3));
    NextTaken();
  }
  MutexLock lock(mu_);
  EXPECT_NE(connections_[0].socket.get_executor(), connections_[1].socket.get_executor());
  EXPECT_EQ(connections_[0].socket.get_executor(), connections_[2].socket.get_executor());
}

TEST_F(AcceptorTest, FindsDeadPeersWithinAMinute) {
  ASSERT_TRUE(Start().ok());
  auto client = Connect();
  asio::write(client, asio::buffer("GET", 3));
  NextTaken();
  const auto option = [this](int level, int name) {
    int value = 0;
    socklen_t size = sizeof value;
    EXPECT_EQ(getsockopt(connections_[0].socket.native_handle(), level, name, &value, &size), 0);
    return value;
  };
  EXPECT_EQ(option(SOL_SOCKET, SO_KEEPALIVE), 1);
  EXPECT_LE(option(IPPROTO_TCP, TCP_KEEPIDLE) +
                option(IPPROTO_TCP, TCP_KEEPCNT) * option(IPPROTO_TCP, TCP_KEEPINTVL),
            60);
  EXPECT_LE(option(IPPROTO_TCP, TCP_USER_TIMEOUT), 60'000);
}

TEST_F(AcceptorTest, ClosesASilentConnection) {
  ASSERT_TRUE(
      Start({.binds = {"127.0.0.1:0"}, .first_bytes_timeout = absl::Milliseconds(50)}).ok());
  auto silent = Connect();
  EXPECT_TRUE(IsClosed(silent));
  while (acceptor_->connections() > 0) std::this_thread::yield();
}

TEST_F(AcceptorTest, ClosesConnectionsAboveItsCap) {
  ASSERT_TRUE(Start({.binds = {"127.0.0.1:0"}, .max_connections = 1}).ok());
  auto first = Connect();
  asio::write(first, asio::buffer("GET", 3));
  NextTaken();
  auto second = Connect();
  EXPECT_TRUE(IsClosed(second));
  connections_.clear();
  auto third = Connect();
  asio::write(third, asio::buffer("PUT", 3));
  EXPECT_EQ(NextTaken(), "http PUT");
}

TEST_F(AcceptorTest, GoesOnAfterDescriptorsRanOut) {
#ifdef __SANITIZE_ADDRESS__
  GTEST_SKIP() << "the sanitizer opens a pipe to look at an object, and takes one that it cannot "
                  "look at for a broken one";
#endif
  ASSERT_TRUE(Start().ok());
  auto client = asio::ip::tcp::socket(client_io_);
  client.open(asio::ip::tcp::v4());
  std::vector<int> hoard;
  for (int fd = dup(0); fd >= 0 && hoard.size() < 200'000; fd = dup(0)) hoard.push_back(fd);
  const std::string& address = acceptor_->addresses().front();
  const auto port = static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
  client.connect(
      {asio::ip::make_address("127.0.0.1"), port});  // Completed by the kernel, not yet accepted.
  asio::write(client, asio::buffer("GET", 3));
  for (const int fd : hoard) close(fd);
  EXPECT_EQ(NextTaken(), "http GET");
}

TEST_F(AcceptorTest, ListensOnSeveralAddresses) {
  const std::string path = testing::TempDir() + "millrace_acceptor_test.sock";
  ASSERT_TRUE(Start({.binds = {"127.0.0.1:0", "unix:" + path, "localhost:0"}}).ok());
  EXPECT_EQ(acceptor_->addresses().size(), 3u);
  asio::local::stream_protocol::socket socket(client_io_);
  socket.connect(path);
  asio::write(socket, asio::buffer("GET", 3));
  EXPECT_EQ(NextTaken(), "http GET");
  acceptor_->Stop();
  EXPECT_NE(access(path.c_str(), F_OK), 0);
}

TEST_F(AcceptorTest, TakesOverTheSocketOfAServerThatIsNoMore) {
  const std::string path = testing::TempDir() + "millrace_stale.sock";
  {
    asio::local::stream_protocol::acceptor stale(client_io_);
    unlink(path.c_str());
    stale.open();
    stale.bind(path);
    stale.listen();
  }
  EXPECT_TRUE(Start({.binds = {"unix:" + path}}).ok());
}

TEST_F(AcceptorTest, SaysWhyItCannotListen) {
  ASSERT_TRUE(Start().ok());
  const auto why = [this](const std::string& bind) {
    Acceptor acceptor({.binds = {bind}}, threads_, nullptr, nullptr);
    return std::string(acceptor.Listen().message());
  };
  EXPECT_THAT(why(acceptor_->addresses().front()),
              HasSubstr("Address already in use; choose another address with --bind"));
  EXPECT_THAT(why("127.0.0.1"), HasSubstr("neither HOST:PORT nor unix:PATH"));
  EXPECT_THAT(why("127.0.0.1:99999"), HasSubstr("no number from 0 to 65535"));
  EXPECT_THAT(why("127.0.0.1:8o"), HasSubstr("no number from 0 to 65535"));
  EXPECT_THAT(why("unix:"), HasSubstr("a unix path has"));
  EXPECT_THAT(why("unix:/nowhere/at/all.sock"), HasSubstr("No such file or directory"));
}

}  // namespace
}  // namespace millrace
