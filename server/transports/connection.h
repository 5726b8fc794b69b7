// A connection on its way from the acceptor to the transport that speaks its protocol, and what an
// I/O thread works with.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace millrace {

// Of the I/O thread that a connection belongs to.  What runs on it is never concurrent with itself.
using Executor = boost::asio::io_context::executor_type;

// A coroutine on an I/O thread, and the token for its waits.
template <typename T>
using Async = boost::asio::awaitable<T, Executor>;
inline constexpr boost::asio::use_awaitable_t<Executor> kAwait;

// A TCP or unix socket.
using Socket = boost::asio::basic_stream_socket<boost::asio::generic::stream_protocol, Executor>;

using Timer = boost::asio::basic_waitable_timer<
    std::chrono::steady_clock, boost::asio::wait_traits<std::chrono::steady_clock>, Executor>;

struct Connection {
  Socket socket;            // non-blocking
  std::string first_bytes;  // what the acceptor read to tell the protocol; comes before what is in
                            // the socket
  std::string peer;         // "127.0.0.1:40312", "[::1]:40312", "unix"

  // Holds the connection's place under the cap; dropped when the connection is closed.
  std::shared_ptr<void> place;
};

}  // namespace millrace
