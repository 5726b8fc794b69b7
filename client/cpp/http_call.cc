#include "client/cpp/http_call.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <utility>

#include "client/cpp/http_head.h"
#include "client/cpp/output_assembler.h"

namespace millrace::internal {
namespace {

constexpr size_t kWriteSize = 1 << 20;
constexpr size_t kReadSize = 64 << 10;
constexpr size_t kMaxErrorSize = 64 << 10;
constexpr char kEndOfHead[] = "\r\n\r\n";

bool IsText(absl::string_view value) {
  return std::none_of(value.begin(), value.end(), [](char c) { return c < ' ' || c == '\x7f'; });
}

absl::Status Check(absl::Span<const TensorView> inputs, const PredictOptions& options) {
  if (inputs.size() != 1 || !options.parameters.empty()) {
    return absl::InvalidArgumentError(
        "HTTP carries one input and no parameters; use Way::kDuplex, kStream or kUnary");
  }
  if (!IsText(options.request_id))
    return absl::InvalidArgumentError("the request id holds control characters");
  return absl::OkStatus();
}

absl::Status ConnectionLost(absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("the server closed the connection: ", why));
}

// One request and its response.  The connection is `broken` until the response was read to its end.
class HttpExchange {
 public:
  HttpExchange(HttpConnection& connection, const PredictOptions& options, absl::Time deadline)
      : connection_(connection), options_(options), deadline_(deadline) {}

  absl::StatusOr<Prediction> Run(absl::string_view model, const TensorView& input) {
    connection_.broken = true;
    const int fd = connection_.socket.get();
    const std::stop_callback stop(options_.stop, [fd] { ::shutdown(fd, SHUT_RDWR); });
    absl::StatusOr<Prediction> prediction = Exchange(model, input);
    if (options_.stop.stop_requested()) return absl::CancelledError("the call was stopped");
    return prediction;
  }

 private:
  absl::StatusOr<Prediction> Exchange(absl::string_view model, const TensorView& input) {
    absl::StatusOr<bool> sent =
        Send(HttpRequestHead(connection_.host, model, input, options_), input.bytes);
    if (!sent.ok()) return sent.status();
    absl::StatusOr<HttpResponseHead> head = ReadHead();
    if (!head.ok()) return head.status();
    absl::StatusOr<uint64_t> size = ContentLength(*head);
    if (!size.ok()) return size.status();
    if (head->status != 200) return ReadError(*head, *size);
    absl::StatusOr<std::vector<OutputTensor>> outputs = ReadOutput(*head, *size);
    if (!outputs.ok()) return outputs.status();
    connection_.broken = !*sent || !head->keep_alive;
    return Prediction{std::string(model), options_.version, options_.request_id,
                      *std::move(outputs), std::string(head->Field("Server-Timing"))};
  }

  // False if the server answered, or hung up, before all was sent.
  absl::StatusOr<bool> Send(const std::string& head, absl::Span<const std::byte> body) {
    size_t head_sent = 0;
    uint64_t body_sent = 0;
    while (head_sent < head.size() || body_sent < body.size()) {
      absl::StatusOr<short> ready = WaitFor(connection_.socket.get(), POLLIN | POLLOUT, deadline_);
      if (!ready.ok()) return ready.status();
      if ((*ready & ~POLLOUT) != 0) return false;
      iovec parts[] = {{const_cast<char*>(head.data()) + head_sent, head.size() - head_sent},
                       {const_cast<std::byte*>(body.data()) + body_sent,
                        std::min(kWriteSize, body.size() - body_sent)}};
      msghdr message = {};
      message.msg_iov = parts;
      message.msg_iovlen = 2;
      const ssize_t n = ::sendmsg(connection_.socket.get(), &message, MSG_NOSIGNAL);
      if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
      if (n <= 0) continue;
      const size_t of_head = std::min<size_t>(n, head.size() - head_sent);
      head_sent += of_head;
      body_sent += n - of_head;
      if (options_.progress) options_.progress(body_sent, body.size());
    }
    return true;
  }

  absl::StatusOr<HttpResponseHead> ReadHead() {
    for (;;) {
      const size_t end = received_.find(kEndOfHead);
      if (end != std::string::npos) {
        absl::StatusOr<HttpResponseHead> head =
            ParseHttpResponseHead(absl::string_view(received_).substr(0, end));
        received_.erase(0, end + strlen(kEndOfHead));
        if (!head.ok() || head->status >= 200) return head;
        continue;  // An interim response, such as 100.
      }
      if (received_.size() > kReadSize) return BrokenAnswer("its header does not end");
      const size_t size = received_.size();
      received_.resize(size + kReadSize);
      absl::StatusOr<size_t> n =
          Receive({reinterpret_cast<std::byte*>(&received_[size]), kReadSize});
      received_.resize(size + (n.ok() ? *n : 0));
      if (!n.ok()) return n.status();
    }
  }

  absl::Status ReadError(const HttpResponseHead& head, uint64_t size) {
    std::string body(std::min<uint64_t>(size, kMaxErrorSize), '\0');
    // An error is an error, also when its text is cut.
    Fill({reinterpret_cast<std::byte*>(body.data()), body.size()}).IgnoreError();
    return HttpError(head, body.c_str());
  }

  absl::StatusOr<std::vector<OutputTensor>> ReadOutput(const HttpResponseHead& head,
                                                       uint64_t size) {
    const std::optional<DType> dtype = ParseDType(head.Field("Millrace-Dtype"));
    const absl::StatusOr<Shape> shape = ParseShape(head.Field("Millrace-Shape"));
    if (!dtype || !shape.ok()) return BrokenAnswer("no type and shape in its header");
    OutputAssembler output;
    const absl::Status status = output.Declare({TensorMeta{"", *dtype, *shape}});
    if (!status.ok()) return status;
    const absl::Span<std::byte> room = output.Room();
    if (room.size() != size) return BrokenAnswer("its size does not fit its shape");
    const absl::Status filled = Fill(room);
    if (!filled.ok()) return filled;
    output.Advance(size);
    return output.Take();
  }

  // First what came together with the header, then straight from the socket.
  absl::Status Fill(absl::Span<std::byte> room) {
    const size_t size = std::min(room.size(), received_.size());
    std::copy_n(reinterpret_cast<const std::byte*>(received_.data()), size, room.data());
    received_.erase(0, size);
    room.remove_prefix(size);
    while (!room.empty()) {
      absl::StatusOr<size_t> n = Receive(room);
      if (!n.ok()) return n.status();
      room.remove_prefix(*n);
    }
    return absl::OkStatus();
  }

  // At least one byte.
  absl::StatusOr<size_t> Receive(absl::Span<std::byte> room) {
    for (;;) {
      const ssize_t n = ::recv(connection_.socket.get(), room.data(), room.size(), 0);
      if (n > 0) return n;
      if (n == 0) return ConnectionLost("before it had answered");
      if (errno != EAGAIN && errno != EINTR) return ConnectionLost(::strerror(errno));
      absl::StatusOr<short> ready = WaitFor(connection_.socket.get(), POLLIN, deadline_);
      if (!ready.ok()) return ready.status();
    }
  }

  HttpConnection& connection_;
  const PredictOptions& options_;
  const absl::Time deadline_;
  std::string received_;  // and not used yet
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpConnection>> HttpConnection::Open(const Address& address,
                                                                     absl::Time deadline) {
  absl::StatusOr<Fd> socket = Dial(address, deadline);
  if (!socket.ok()) return socket.status();
  return std::make_unique<HttpConnection>(
      HttpConnection{*std::move(socket), address.path.empty() ? ToString(address) : "localhost"});
}

absl::StatusOr<Prediction> PredictOverHttp(HttpConnection& connection, absl::string_view model,
                                           absl::Span<const TensorView> inputs,
                                           const PredictOptions& options, absl::Time deadline) {
  const absl::Status status = Check(inputs, options);
  if (!status.ok()) return status;
  return HttpExchange(connection, options, deadline).Run(model, inputs[0]);
}

}  // namespace millrace::internal
