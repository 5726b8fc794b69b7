#include "tests/bench/sender.h"

#include <absl/container/fixed_array.h>
#include <absl/strings/str_cat.h>
#include <millrace/client.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

#include "client/cpp/http_head.h"
#include "proto/wire/npy.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/plain_socket.h"

namespace millrace::bench {
namespace {

constexpr std::pair<const char*, Way> kLibraryWays[] = {{"duplex", Way::kDuplex},
                                                        {"stream", Way::kStream},
                                                        {"unary", Way::kUnary},
                                                        {"http", Way::kHttp}};

absl::Status PredictAndCheck(const Client& client, Way way, const Image& image) {
  PredictOptions options;
  options.way = way;
  const absl::StatusOr<Prediction> prediction =
      client.Predict("row_mean_std", {image.view()}, options);
  if (!prediction.ok()) return prediction.status();
  if (prediction->outputs.size() != 1) return absl::InternalError("not one output");
  const absl::StatusOr<absl::Span<const float>> answer = prediction->outputs[0].As<float>();
  if (!answer.ok()) return answer.status();
  if (answer->size() != 1) return absl::InternalError("not one value");
  return CheckAnswer(image, (*answer)[0]);
}

class LibrarySender final : public Sender {
 public:
  LibrarySender(Client client, Way way, const Image& image)
      : client_(std::move(client)), way_(way), image_(image) {}

  absl::Status Send() override { return PredictAndCheck(client_, way_, image_); }

 private:
  const Client client_;
  const Way way_;
  const Image& image_;
};

// A hundred sizes from 4 bytes up, evenly on a logarithmic scale, in an order that is no order and
// always the same; each always goes the same way.
class MixedSender final : public Sender {
 public:
  static constexpr size_t kSizes = 100;

  MixedSender(Client client, uint64_t largest) : client_(std::move(client)) {
    std::vector<uint64_t> sizes;
    for (size_t i = 0; i < kSizes; ++i) {
      const double share = static_cast<double>(i) / (kSizes - 1);
      const double size = std::pow(static_cast<double>(largest) / kRow, share) * kRow;
      sizes.push_back(i % 10 == 0 ? sizeof(float) : static_cast<uint64_t>(size / kRow) * kRow);
    }
    sizes.back() = largest;
    std::shuffle(sizes.begin(), sizes.end(), std::minstd_rand(1));
    for (const uint64_t size : sizes) images_.emplace_back(size);
  }

  absl::Status Send() override {
    const size_t turn = next_++ % kSizes;
    return PredictAndCheck(client_, kLibraryWays[turn % std::size(kLibraryWays)].second,
                           images_[turn]);
  }

 private:
  static constexpr uint64_t kRow = 2500 * sizeof(float);

  const Client client_;
  std::vector<Image> images_;
  size_t next_ = 0;
};

class CeilingSender final : public Sender {
 public:
  CeilingSender(internal::Fd socket, const Image& image)
      : socket_(std::move(socket)), image_(image) {}

  absl::Status Send() override {
    absl::Status status = SendAll(socket_.get(), image_.view().bytes);
    float answer = NAN;
    if (status.ok()) status = ReceiveAll(socket_.get(), BytesOf(answer), sizeof(answer));
    if (status.ok()) status = CheckAnswer(image_, answer);
    return status;
  }

 private:
  const internal::Fd socket_;
  const Image& image_;
};

// POSTs a body again and again, on one connection as long as the server keeps it.
class PostSender final : public Sender {
 public:
  PostSender(std::string address, std::shared_ptr<const std::string> request, const Image& image)
      : address_(std::move(address)), request_(std::move(request)), image_(image) {}

  absl::Status Send() override {
    if (socket_.get() < 0) {
      absl::StatusOr<internal::Fd> socket = ConnectTo(address_);
      if (!socket.ok()) return socket.status();
      socket_ = *std::move(socket);
    }
    const absl::Status status = SendAll(
        socket_.get(), {reinterpret_cast<const std::byte*>(request_->data()), request_->size()});
    if (!status.ok()) return status;
    return ReadAnswer();
  }

 private:
  absl::Status ReadAnswer() {
    std::string text;
    size_t end;
    while ((end = text.find("\r\n\r\n")) == std::string::npos) {
      const absl::Status status = ReadMore(text);
      if (!status.ok()) return status;
    }
    const absl::StatusOr<internal::HttpResponseHead> head =
        internal::ParseHttpResponseHead(absl::string_view(text).substr(0, end));
    if (!head.ok()) return head.status();
    const absl::StatusOr<uint64_t> size = internal::ContentLength(*head);
    if (!size.ok()) return size.status();
    text.erase(0, end + 4);
    while (text.size() < *size) {
      const absl::Status status = ReadMore(text);
      if (!status.ok()) return status;
    }
    if (!head->keep_alive) socket_ = internal::Fd();
    if (head->status != 200) return internal::HttpError(*head, text);
    if (text.size() != sizeof(float)) return absl::InternalError("not one value");
    float answer;
    std::memcpy(&answer, text.data(), sizeof(answer));
    return CheckAnswer(image_, answer);
  }

  absl::Status ReadMore(std::string& text) {
    std::byte buffer[4096];
    const absl::StatusOr<size_t> n = ReceiveSome(socket_.get(), absl::MakeSpan(buffer));
    if (!n.ok()) return n.status();
    text.append(reinterpret_cast<const char*>(buffer), *n);
    return absl::OkStatus();
  }

  const std::string address_;
  const std::shared_ptr<const std::string> request_;
  const Image& image_;
  internal::Fd socket_;
};

absl::string_view AsText(absl::Span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string NpyBody(const Image& image) {
  return absl::StrCat(NpyHeader(image.view().meta), AsText(image.view().bytes));
}

// {"instances": [[0,0.1],[0.2,0.3]]}, each number as short as it can be.
std::string JsonBody(const Image& image) {
  const TensorView view = image.view();
  const float* const values = reinterpret_cast<const float*>(view.bytes.data());
  const size_t count = view.bytes.size() / sizeof(float);
  const size_t columns = view.meta.shape.back();
  std::string text = R"({"instances": [[)";
  for (size_t i = 0; i < count; ++i) {
    if (i > 0) text += i % columns == 0 ? "],[" : ",";
    char number[32];
    text.append(number, std::to_chars(number, std::end(number), values[i]).ptr);
  }
  text += "]]}";
  return text;
}

std::string PostRequest(const std::string& type, const std::string& body) {
  return absl::StrCat("POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: ", type,
                      "\r\nAccept: application/octet-stream\r\nContent-Length: ", body.size(),
                      "\r\n\r\n", body);
}

SenderFactory PostFactory(std::string address, std::string request, const Image& image) {
  auto shared = std::make_shared<const std::string>(std::move(request));
  return [address = std::move(address), shared = std::move(shared), &image] {
    return std::make_unique<PostSender>(address, shared, image);
  };
}

absl::StatusOr<std::unique_ptr<Sender>> MakeCeilingSender(const SenderOptions& options,
                                                          const Image& image) {
  absl::StatusOr<internal::Fd> socket = ConnectTo(options.address);
  if (!socket.ok()) return socket.status();
  Hello hello = {image.view().bytes.size(), options.read_size};
  const absl::Status status = SendAll(socket->get(), BytesOf(hello));
  if (!status.ok()) return status;
  return std::make_unique<CeilingSender>(*std::move(socket), image);
}

}  // namespace

absl::StatusOr<SenderFactory> MakeSenderFactory(SenderOptions options, const Image& image) {
  const std::string& way = options.way;
  if (way == "npy") {
    return PostFactory(options.address, PostRequest("application/x-npy", NpyBody(image)), image);
  }
  if (way == "json") {
    return PostFactory(options.address, PostRequest("application/json", JsonBody(image)), image);
  }
  if (way == "ceiling") {
    return [options, &image] { return MakeCeilingSender(options, image); };
  }
  if (way == "mixed") {
    return [options, &image]() -> absl::StatusOr<std::unique_ptr<Sender>> {
      absl::StatusOr<Client> client = Client::Connect(options.address);
      if (!client.ok()) return client.status();
      return std::make_unique<MixedSender>(*std::move(client), image.view().bytes.size());
    };
  }
  for (const auto& [name, library_way] : kLibraryWays) {
    if (way != name) continue;
    return [options, &image, w = library_way]() -> absl::StatusOr<std::unique_ptr<Sender>> {
      absl::StatusOr<Client> client = Client::Connect(options.address);
      if (!client.ok()) return client.status();
      return std::make_unique<LibrarySender>(*std::move(client), w, image);
    };
  }
  return absl::InvalidArgumentError(absl::StrCat("no way \"", way, "\""));
}

}  // namespace millrace::bench
