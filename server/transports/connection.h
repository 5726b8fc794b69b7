// A connection on its way from the acceptor to the transport that speaks its protocol.
#pragma once

#include <memory>
#include <string>

#include <boost/asio/generic/stream_protocol.hpp>

namespace millrace {

// A TCP or unix socket.  Its executor is a strand of the server's io_context: what runs on it is
// never concurrent with itself.
using Socket = boost::asio::generic::stream_protocol::socket;

struct Connection {
  Socket socket;            // non-blocking
  std::string first_bytes;  // what the acceptor read to tell the protocol; comes before what is in
                            // the socket
  std::string peer;         // "127.0.0.1:40312", "[::1]:40312", "unix"

  // Holds the connection's place under the cap; dropped when the connection is closed.
  std::shared_ptr<void> place;
};

}  // namespace millrace
