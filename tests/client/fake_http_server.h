// A server for tests of the client that answers each connection as the test says, byte by byte.
#pragma once

#include <absl/strings/numbers.h>
#include <absl/strings/string_view.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <utility>

namespace millrace {

// One accepted connection.
class FakeHttpPeer {
 public:
  explicit FakeHttpPeer(int fd) : fd_(fd) {}

  // A request up to the empty line; empty if the client closed.
  std::string ReadHead() {
    while (received_.find("\r\n\r\n") == std::string::npos) {
      if (!Receive()) return "";
    }
    return TakeBytes(received_.find("\r\n\r\n") + 4);
  }

  // Shorter if the client closed.
  std::string ReadBody(size_t size) {
    while (received_.size() < size && Receive()) {
    }
    return TakeBytes(size);
  }

  // A whole request with a Content-Length, if the client did not close.
  bool ReadRequest(std::string& head, std::string& body) {
    std::string next = ReadHead();
    const size_t at = next.find("Content-Length: ");
    if (at == std::string::npos) return false;
    head = std::move(next);
    body = ReadBody(std::stoul(head.substr(at + 16)));
    return true;
  }

  void Write(absl::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return;
      bytes.remove_prefix(n);
    }
  }

 private:
  bool Receive() {
    char buffer[4096];
    const ssize_t n = ::recv(fd_, buffer, sizeof(buffer), 0);
    if (n > 0) received_.append(buffer, n);
    return n > 0;
  }

  std::string TakeBytes(size_t size) {
    std::string bytes = received_.substr(0, size);
    received_.erase(0, size);
    return bytes;
  }

  const int fd_;
  std::string received_;
};

// Calls `serve` for one connection after another, on its own thread, until it is destroyed.
class FakeHttpServer {
 public:
  explicit FakeHttpServer(std::function<void(FakeHttpPeer&)> serve)
      : listener_(::socket(AF_INET, SOCK_STREAM, 0)), serve_(std::move(serve)) {
    sockaddr_in at = {};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(at);
    ::bind(listener_, reinterpret_cast<sockaddr*>(&at), size);
    ::listen(listener_, 8);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&at), &size);
    port_ = ntohs(at.sin_port);
    thread_ = std::thread([this] { Run(); });
  }

  ~FakeHttpServer() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

 private:
  void Run() {
    for (int fd = 0; (fd = ::accept(listener_, nullptr, nullptr)) >= 0;) {
      FakeHttpPeer peer(fd);
      serve_(peer);
      ::close(fd);
    }
  }

  const int listener_;
  const std::function<void(FakeHttpPeer&)> serve_;
  uint16_t port_ = 0;
  std::thread thread_;
};

}  // namespace millrace
