#include <absl/strings/str_cat.h>
#include <absl/synchronization/notification.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <millrace/client.h>
#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <span>
#include <thread>

#include "tests/client/fake_grpc_server.h"
#include "tests/client/fake_http_server.h"

namespace millrace {
namespace {

using ::testing::HasSubstr;
using Duplex = FakeGrpcServer::Duplex;

// More than the windows of HTTP/2 and the kernel hold, so that a server that does not read stops
// the client.
constexpr int64_t kManyFloats = 64 << 18;

std::vector<float> Floats(int64_t count) {
  std::vector<float> floats(count);
  std::iota(floats.begin(), floats.end(), 0.f);
  return floats;
}

TensorView View(const std::vector<float>& floats, std::string name = "image") {
  return {{std::move(name), DType::kFloat32, {static_cast<int64_t>(floats.size())}},
          std::as_bytes(std::span(floats))};
}

grpc::Status Error(grpc::StatusCode code, const std::string& text) { return {code, text}; }

class EchoTest : public ::testing::Test {
 protected:
  Client Connect() { return *Client::Connect(server_.address()); }

  absl::StatusOr<Prediction> Predict(int64_t count, PredictOptions options = {}) {
    floats_ = Floats(count);
    return client_.Predict("echo", {View(floats_)}, options);
  }

  absl::Notification done_;
  std::stop_source source_;
  FakeGrpcServer server_;
  Client client_ = Connect();
  std::vector<float> floats_;
};

class GrpcClientTest : public EchoTest, public ::testing::WithParamInterface<Way> {};

TEST_P(GrpcClientTest, OutputsComeBackAsTheyWereSent) {
  for (const int64_t count : {int64_t{0}, int64_t{1}, int64_t{1} << 17, (int64_t{1} << 20) + 13}) {
    const auto prediction = Predict(count, {.way = GetParam(), .request_id = "id"});
    ASSERT_TRUE(prediction.ok()) << prediction.status();
    EXPECT_EQ(prediction->model, "echo");
    EXPECT_EQ(prediction->version, "7");
    EXPECT_EQ(prediction->request_id, "id");
    ASSERT_EQ(prediction->outputs.size(), 1u);
    EXPECT_EQ(prediction->outputs[0].meta, View(floats_).meta);
    EXPECT_EQ(*prediction->outputs[0].As<float>(), absl::MakeConstSpan(floats_));
  }
}

TEST_P(GrpcClientTest, SeveralTensorsKeepTheirBoundaries) {
  const std::vector<float> a = Floats(200'001), none, b = Floats(3);
  const auto prediction = client_.Predict("echo", {View(a, "a"), View(none, "none"), View(b, "b")},
                                          {.way = GetParam()});
  ASSERT_TRUE(prediction.ok()) << prediction.status();
  ASSERT_EQ(prediction->outputs.size(), 3u);
  EXPECT_EQ(*prediction->outputs[0].As<float>(), absl::MakeConstSpan(a));
  EXPECT_EQ(prediction->outputs[1].size, 0u);
  EXPECT_EQ(prediction->outputs[2].meta.name, "b");
  EXPECT_EQ(*prediction->outputs[2].As<float>(), absl::MakeConstSpan(b));
}

TEST_P(GrpcClientTest, TheHeaderSaysWhatTheCallerSaid) {
  const PredictOptions options = {.way = GetParam(), .version = "3", .parameters = {{"k", "v"}}};
  ASSERT_TRUE(Predict(3, options).ok());
  EXPECT_EQ(server_.header.model(), "echo");
  EXPECT_EQ(server_.header.version(), "3");
  EXPECT_EQ(server_.header.parameters().at("k"), "v");
}

TEST_P(GrpcClientTest, ProgressGrowsToTheWhole) {
  std::vector<uint64_t> sent;
  const auto prediction =
      Predict(1 << 19, {.way = GetParam(), .progress = [&](uint64_t now, uint64_t total) {
                          EXPECT_EQ(total, 4u << 19);
                          sent.push_back(now);
                        }});
  ASSERT_TRUE(prediction.ok()) << prediction.status();
  EXPECT_TRUE(std::is_sorted(sent.begin(), sent.end()));
  EXPECT_EQ(sent.back(), 4u << 19);
}

std::string WayName(const ::testing::TestParamInfo<Way>& info) {
  if (info.param == Way::kDuplex) return "Duplex";
  return info.param == Way::kStream ? "Stream" : "Unary";
}

INSTANTIATE_TEST_SUITE_P(Ways, GrpcClientTest,
                         ::testing::Values(Way::kDuplex, Way::kStream, Way::kUnary), WayName);

TEST_F(EchoTest, TimingComesFromTheTrailingMetadata) {
  const auto prediction = Predict(1, {.way = Way::kStream});
  ASSERT_TRUE(prediction.ok()) << prediction.status();
  EXPECT_EQ(prediction->timing, "receive;dur=1");
}

TEST_F(EchoTest, AnErrorWhileSendingEndsTheCallAtOnce) {
  server_.on_duplex = [](grpc::ServerContext&, Duplex& stream) {
    v1::PredictDuplexRequest header;
    stream.Read(&header);
    return Error(grpc::StatusCode::NOT_FOUND, "no model \"echo\"");
  };
  uint64_t sent = 0;
  const auto prediction =
      Predict(kManyFloats, {.progress = [&](uint64_t now, uint64_t) { sent = now; }});
  EXPECT_EQ(prediction.status(), absl::NotFoundError("no model \"echo\""));
  EXPECT_LT(sent, kManyFloats * sizeof(float));
}

TEST_F(EchoTest, TheConnectionServesOnAfterAnError) {
  server_.on_duplex = [](grpc::ServerContext&, Duplex&) {
    return Error(grpc::StatusCode::INTERNAL, "once");
  };
  EXPECT_EQ(Predict(kManyFloats).status().code(), absl::StatusCode::kInternal);
  server_.on_duplex = nullptr;
  EXPECT_TRUE(Predict(1000).ok());
}

TEST_F(EchoTest, ATimeoutEndsACallThatTheServerDoesNotRead) {
  server_.on_duplex = [&](grpc::ServerContext&, Duplex&) {
    done_.WaitForNotification();
    return grpc::Status::OK;
  };
  const auto prediction = Predict(kManyFloats, {.timeout = absl::Milliseconds(100)});
  done_.Notify();
  EXPECT_EQ(prediction.status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(prediction.status().message()), HasSubstr("100ms"));
}

TEST_F(EchoTest, StopEndsACall) {
  server_.on_duplex = [&](grpc::ServerContext& context, Duplex& stream) {
    v1::PredictDuplexRequest request;
    stream.Read(&request);
    source_.request_stop();
    while (stream.Read(&request)) {
    }
    EXPECT_TRUE(context.IsCancelled());
    return grpc::Status::OK;
  };
  const auto prediction = Predict(1 << 22, {.stop = source_.get_token()});
  // The stop may come when everything was sent already; the echo is off, so there is no answer
  // either way.
  EXPECT_EQ(prediction.status().code(), absl::StatusCode::kCancelled);
}

TEST_F(EchoTest, ACallThatWasStoppedBeforeDoesNotRun) {
  source_.request_stop();
  EXPECT_EQ(Predict(1, {.stop = source_.get_token()}).status().code(),
            absl::StatusCode::kCancelled);
}

TEST_F(EchoTest, AConnectionThatTheServerClosedIsReplaced) {
  ASSERT_TRUE(Predict(10).ok());
  const std::string address = server_.address();
  server_.Stop();
  server_.Start(address);
  const auto prediction = Predict(10);
  EXPECT_TRUE(prediction.ok()) << prediction.status();
}

TEST_F(EchoTest, AServerThatWentAwayIsUnavailable) {
  server_.Stop();
  const auto prediction = Predict(10);
  EXPECT_EQ(prediction.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(prediction.status().message()),
              HasSubstr("is millrace-server running there?"));
}

TEST_F(EchoTest, CallsRunBesideEachOther) {
  const std::vector<float> floats = Floats(300'000);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int call = 0; call < 5; ++call) {
        const auto prediction = client_.Predict("echo", {View(floats)});
        ASSERT_TRUE(prediction.ok()) << prediction.status();
        EXPECT_EQ(*prediction->outputs[0].As<float>(), absl::MakeConstSpan(floats));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(EchoTest, BytesThatDoNotFitTheShapeAreNotSent) {
  const std::vector<float> floats(3);
  TensorView view = View(floats);
  view.meta.shape = {4};
  const auto prediction = client_.Predict("echo", {view});
  EXPECT_EQ(prediction.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(prediction.status().message()), HasSubstr("takes 16 bytes, not 12"));
}

TEST_F(EchoTest, ReadingAsAnotherTypeIsAnError) {
  const auto prediction = Predict(3);
  ASSERT_TRUE(prediction.ok()) << prediction.status();
  EXPECT_EQ(prediction->outputs[0].As<double>().status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_FALSE(prediction->outputs[0].As<uint32_t>().ok());
}

TEST_F(EchoTest, ListsModels) {
  const auto models = client_.ListModels();
  ASSERT_TRUE(models.ok()) << models.status();
  ASSERT_EQ(models->size(), 2u);
  EXPECT_EQ((*models)[0].name, "echo");
  EXPECT_EQ((*models)[0].inputs[0].meta, (TensorMeta{"image", DType::kFloat32, {kAnySize, 3}}));
  EXPECT_TRUE((*models)[0].inputs[0].scalar_broadcasts);
}

TEST_F(EchoTest, GetsOneModel) {
  EXPECT_EQ(client_.GetModel("echo")->version, "7");
  EXPECT_EQ(client_.GetModel("none").status(), absl::NotFoundError("no such model"));
}

// Answers that break the protocol.
struct Broken {
  const char* name;
  const char* text;
  std::vector<v1::PredictDuplexResponse> messages;
};

v1::PredictDuplexResponse HeaderMessage(std::vector<int64_t> shape,
                                        int type = v1::DATA_TYPE_UINT8) {
  v1::PredictDuplexResponse message;
  v1::Tensor& tensor = *message.mutable_header()->add_tensors();
  tensor.set_data_type(static_cast<v1::DataType>(type));
  tensor.mutable_shape()->Assign(shape.begin(), shape.end());
  return message;
}

v1::PredictDuplexResponse Piece(const std::string& bytes) {
  v1::PredictDuplexResponse message;
  message.set_payload(bytes);
  return message;
}

class BrokenAnswerTest : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenAnswerTest, IsAnError) {
  FakeGrpcServer server;
  server.on_duplex = [](grpc::ServerContext&, Duplex& stream) {
    for (const auto& message : GetParam().messages) stream.Write(message);
    return grpc::Status::OK;
  };
  const std::vector<float> floats = Floats(10);
  const auto prediction = Client::Connect(server.address())->Predict("echo", {View(floats)});
  EXPECT_EQ(prediction.status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(prediction.status().message()), HasSubstr(GetParam().text));
}

INSTANTIATE_TEST_SUITE_P(
    Answers, BrokenAnswerTest,
    ::testing::Values(Broken{"Empty", "it is empty", {}},
                      Broken{"PieceFirst", "without a header", {Piece("abc")}},
                      Broken{"TwoHeaders", "comes twice", {HeaderMessage({1}), HeaderMessage({1})}},
                      Broken{"TooFewBytes", "fewer bytes", {HeaderMessage({3}), Piece("ab")}},
                      Broken{"TooManyBytes", "more bytes", {HeaderMessage({3}), Piece("abcd")}},
                      Broken{"NoBytes", "fewer bytes", {HeaderMessage({3})}},
                      Broken{"UnknownType", "data type 99", {HeaderMessage({3}, 99)}},
                      Broken{"NegativeShape", "negative", {HeaderMessage({-3})}},
                      Broken{"Overflow", "63 bits", {HeaderMessage({INT64_MAX, 3})}}),
    [](const auto& answer) { return std::string(answer.param.name); });

TEST(GrpcWithoutServerTest, AnUnreachableServerIsAClearError) {
  FakeGrpcServer server;
  const std::string address = server.address();
  server.Stop();
  const auto client = Client::Connect(address);
  EXPECT_EQ(client.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(client.status().message(),
            absl::StrCat("cannot connect to ", address,
                         ": Connection refused; is millrace-server running there?"));
}

TEST(GrpcWithoutServerTest, UnixSocketsWork) {
  const std::string address =
      absl::StrCat("unix:", ::testing::TempDir(), "millrace_client_", ::getpid(), ".sock");
  FakeGrpcServer server(address);
  const std::vector<float> floats = Floats(100'000);
  const auto prediction = Client::Connect(address)->Predict("echo", {View(floats)});
  ASSERT_TRUE(prediction.ok()) << prediction.status();
  EXPECT_EQ(*prediction->outputs[0].As<float>(), absl::MakeConstSpan(floats));
}

// HTTP/2: SETTINGS with the largest INITIAL_WINDOW_SIZE, and a WINDOW_UPDATE for the connection.
constexpr absl::string_view kWideOpenWindows(
    "\0\0\6\4\0\0\0\0\0"
    "\0\4\x7f\xff\xff\xff"
    "\0\0\4\x8\0\0\0\0\0"
    "\x7f\xfe\0\0",
    28);

// What gRPC had begun to write must be given up with the call, or it would read memory that the
// caller has freed.
TEST(GrpcWithoutServerTest, APeerThatHangsDoesNotKeepTheBytes) {
  absl::Notification done;
  FakeHttpServer server([&](FakeHttpPeer& peer) {
    peer.Write(kWideOpenWindows);
    done.WaitForNotification();
  });
  const auto client = Client::Connect(server.address());
  const std::vector<float> floats = Floats(kManyFloats);
  const PredictOptions options = {.timeout = absl::Milliseconds(200)};
  const auto prediction = client->Predict("echo", {View(floats)}, options);
  EXPECT_EQ(prediction.status().code(), absl::StatusCode::kDeadlineExceeded);
  done.Notify();
}

}  // namespace
}  // namespace millrace
