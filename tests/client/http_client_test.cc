#include <absl/strings/str_cat.h>
#include <absl/synchronization/notification.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <millrace/client.h>

#include <span>

#include "tests/client/fake_http_server.h"

namespace millrace {
namespace {

using ::testing::HasSubstr;

// More than the kernel buffers.
constexpr int64_t kMany = 64 << 20;

std::string Answer(absl::string_view status, absl::string_view fields, absl::string_view body) {
  return absl::StrCat("HTTP/1.1 ", status, "\r\nContent-Length: ", body.size(), "\r\n", fields,
                      "\r\n", body);
}

constexpr char kThreeBytes[] = "Millrace-Dtype: uint8\r\nMillrace-Shape: 3\r\n";

class HttpClientTest : public ::testing::Test {
 protected:
  using Serve = std::function<void(FakeHttpPeer&)>;

  void Start(Serve serve) {
    server_ = std::make_unique<FakeHttpServer>([serve, this](FakeHttpPeer& peer) {
      ++connections_;
      serve(peer);
    });
  }

  absl::StatusOr<Prediction> Predict(int64_t size, PredictOptions options = {}) {
    bytes_.assign(size, std::byte{7});
    options.way = Way::kHttp;
    if (!client_) client_.emplace(*Client::Connect(server_->address()));
    return client_->Predict("m", {{{"in put", DType::kUint8, {size}}, bytes_}}, options);
  }

  // Serves every request with `answer`, and keeps the last one.
  Serve Always(std::string answer) {
    return [this, answer = std::move(answer)](FakeHttpPeer& peer) {
      while (peer.ReadRequest(head_, body_)) peer.Write(answer);
    };
  }

  std::vector<std::byte> bytes_;
  int connections_ = 0;
  std::string head_, body_;
  absl::Notification done_;
  std::stop_source source_;
  std::unique_ptr<FakeHttpServer> server_;
  std::optional<Client> client_;  // goes first: the server ends when its connections do
};

TEST_F(HttpClientTest, TheRequestSaysWhatIsSent) {
  Start(Always(Answer("200 OK", kThreeBytes, "abc")));
  ASSERT_TRUE(Predict(3, {.version = "2", .request_id = "id"}).ok());
  EXPECT_THAT(
      head_,
      HasSubstr(
          "POST /v1/models/m/versions/2:predict?shape=3&dtype=uint8&name=in%20put HTTP/1.1\r\n"));
  EXPECT_THAT(head_, HasSubstr("Content-Type: application/octet-stream\r\n"));
  EXPECT_THAT(head_, HasSubstr("X-Request-Id: id\r\n"));
  EXPECT_EQ(body_, "\7\7\7");
}

TEST_F(HttpClientTest, TheAnswerIsTheOutput) {
  Start(
      Always(Answer("200 OK", absl::StrCat(kThreeBytes, "Server-Timing: queue;dur=1\r\n"), "abc")));
  const auto prediction = Predict(3);
  ASSERT_TRUE(prediction.ok()) << prediction.status();
  ASSERT_EQ(prediction->outputs.size(), 1u);
  EXPECT_EQ(prediction->outputs[0].meta, (TensorMeta{"", DType::kUint8, {3}}));
  EXPECT_EQ((*prediction->outputs[0].As<uint8_t>())[2], 'c');
  EXPECT_EQ(prediction->timing, "queue;dur=1");
}

TEST_F(HttpClientTest, TheConnectionIsKept) {
  Start(Always(Answer("200 OK", kThreeBytes, "abc")));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Predict(3).ok());
  client_.reset();
  server_.reset();
  EXPECT_EQ(connections_, 2);  // The first only asked whether anybody is there.
}

TEST_F(HttpClientTest, AClosedConnectionIsReplaced) {
  Start([this](FakeHttpPeer& peer) {
    if (peer.ReadRequest(head_, body_)) peer.Write(Answer("200 OK", kThreeBytes, "abc"));
  });
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(Predict(3).ok());
}

TEST_F(HttpClientTest, InterimResponsesAreSkipped) {
  Start(Always("HTTP/1.1 100 Continue\r\n\r\n" + Answer("200 OK", kThreeBytes, "abc")));
  EXPECT_TRUE(Predict(3).ok());
}

TEST_F(HttpClientTest, TheJsonErrorIsTheStatus) {
  Start(Always(Answer("404 Not Found", "", R"({"error": "no \"m\"", "code": "NOT_FOUND"})")));
  EXPECT_EQ(Predict(3).status(), absl::NotFoundError("no \"m\""));
}

TEST_F(HttpClientTest, AnErrorOfAnotherServerIsTold) {
  Start(Always(Answer("503 Busy", "", "<html>")));
  EXPECT_EQ(Predict(3).status(), absl::UnavailableError("HTTP status 503: <html>"));
}

TEST_F(HttpClientTest, AnErrorWhileSendingEndsTheCallAtOnce) {
  Start([&](FakeHttpPeer& peer) {
    if (peer.ReadHead().empty()) return;
    peer.Write(Answer("413 Too Large", "Connection: close\r\n",
                      R"({"error":"too large","code":"RESOURCE_EXHAUSTED"})"));
    done_.WaitForNotification();
  });
  const auto prediction = Predict(kMany);
  done_.Notify();
  EXPECT_EQ(prediction.status(), absl::ResourceExhaustedError("too large"));
}

TEST_F(HttpClientTest, ATimeoutEndsACallThatIsNotRead) {
  Start([&](FakeHttpPeer&) { done_.WaitForNotification(); });
  const auto prediction = Predict(kMany, {.timeout = absl::Milliseconds(50)});
  done_.Notify();
  EXPECT_EQ(prediction.status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(HttpClientTest, StopEndsACall) {
  Start([&](FakeHttpPeer& peer) {
    if (peer.ReadHead().empty()) return;
    source_.request_stop();
    peer.ReadBody(kMany);
  });
  EXPECT_EQ(Predict(kMany, {.stop = source_.get_token()}).status().code(),
            absl::StatusCode::kCancelled);
}

TEST_F(HttpClientTest, ProgressGrowsToTheWhole) {
  Start(Always(Answer("200 OK", kThreeBytes, "abc")));
  uint64_t last = 0;
  ASSERT_TRUE(Predict(kMany, {.progress =
                                  [&](uint64_t sent, uint64_t total) {
                                    EXPECT_EQ(total, uint64_t{kMany});
                                    EXPECT_GE(sent, last);
                                    last = sent;
                                  }})
                  .ok());
  EXPECT_EQ(last, uint64_t{kMany});
}

TEST_F(HttpClientTest, ParametersNeedGrpc) {
  Start(Always(""));
  EXPECT_EQ(Predict(3, {.parameters = {{"k", "v"}}}).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(HttpClientTest, BrokenAnswersAreErrors) {
  const std::string ok = "HTTP/1.1 200 OK\r\n";
  for (const std::string& answer :
       {std::string("SSH-2.0-OpenSSH\r\n\r\n"), ok + "\r\n", ok + "Content-Length: 3\r\n\r\nabc",
        Answer("200 OK", "Millrace-Dtype: uint8\r\nMillrace-Shape: 4\r\n", "abc"),
        Answer("200 OK", "Millrace-Dtype: blob\r\nMillrace-Shape: 3\r\n", "abc"),
        Answer("200 OK", "Millrace-Dtype: uint8\r\nMillrace-Shape: -3\r\n", "abc"),
        std::string(100'000, 'x')}) {
    client_.reset();
    Start(Always(answer));
    EXPECT_EQ(Predict(3).status().code(), absl::StatusCode::kInternal) << answer.substr(0, 200);
  }
}

TEST_F(HttpClientTest, AnAnswerThatEndsEarlyIsUnavailable) {
  Start([this](FakeHttpPeer& peer) {
    if (!peer.ReadRequest(head_, body_)) return;
    peer.Write(absl::StrCat("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", kThreeBytes, "\r\nab"));
  });
  EXPECT_EQ(Predict(3).status().code(), absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace millrace
