// Whole requests over real sockets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "proto/wire/npy.h"
#include "tests/http/http_harness.h"

namespace millrace {
namespace {

using absl::StatusCode;
using testing::ElementsAre;
using testing::HasSubstr;

using SessionTest = HttpTest;

TEST_F(SessionTest, AnswersRawBytesWithRawBytes) {
  HttpClient client = Connect();
  const std::string body = Floats({1, 2, 3});
  const HttpReply reply = client.Ask(Post("/predict", body));
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, body);
  EXPECT_EQ(reply.Field("Millrace-Shape"), "3");
  EXPECT_EQ(reply.Field("Millrace-Dtype"), "float32");
  EXPECT_EQ(reply.Field("Content-Type"), "application/octet-stream");
  EXPECT_THAT(reply.Field("Server-Timing"), HasSubstr("compute;dur="));
}

TEST_F(SessionTest, TakesWhatTheAcceptorRead) {
  HttpClient client = Connect("POST /predict HTT");
  client.Send("P/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n" + Floats({1}));
  EXPECT_EQ(client.Receive().body, Floats({1}));
}

TEST_F(SessionTest, TakesABodyOfManyReads) {
  HttpClient client = Connect();
  const std::string body = Floats(std::vector<float>(3'000'000, 1.5f));
  client.Send(Post("/predict?shape=3000000", body));
  const HttpReply reply = client.Receive();
  EXPECT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.body == body);
}

TEST_F(SessionTest, AnswersPipelinedRequestsInOrder) {
  HttpClient client = Connect();
  client.Send(Post("/predict", Floats({1})) + Get("/healthz") + Post("/predict", Floats({2})));
  EXPECT_EQ(client.Receive().body, Floats({1}));
  EXPECT_EQ(client.Receive().body, "ok\n");
  EXPECT_EQ(client.Receive().body, Floats({2}));
}

TEST_F(SessionTest, TakesAByteAtATime) {
  HttpClient client = Connect();
  for (const char c : Post("/predict", Floats({1}))) client.Send({&c, 1});
  EXPECT_EQ(client.Receive().body, Floats({1}));
}

TEST_F(SessionTest, TakesChunksCutAnywhere) {
  HttpClient client = Connect();
  const std::string body = Floats({1, 2});
  client.Send("POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
  client.Send("3\r\n" + body.substr(0, 3) + "\r\n1;a=b\r\n" + body.substr(3, 1));
  client.Send("\r\n4\r\n" + body.substr(4) + "\r\n0\r\nTrailer: x\r\n\r\n" + Get("/healthz"));
  const HttpReply reply = client.Receive();
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.body, body);
  EXPECT_EQ(client.Receive().body, "ok\n");
}

TEST_F(SessionTest, TakesDeclaredChunks) {
  HttpClient client = Connect();
  const std::string head =
      "POST /predict?shape=2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  EXPECT_EQ(client.Ask(head + "8\r\n" + Floats({1, 2}) + "\r\n0\r\n\r\n").body, Floats({1, 2}));
  EXPECT_THAT(client.Ask(head + "4\r\n" + Floats({1}) + "\r\n0\r\n\r\n").body,
              HasSubstr("the body ends 4 bytes before"));
  EXPECT_EQ(client.Ask(head + "c\r\n" + Floats({1, 2, 3}) + "\r\n0\r\n\r\n").status, 413);
}

TEST_F(SessionTest, ABrokenChunkEndsTheConnection) {
  HttpClient client = Connect();
  const HttpReply reply = client.Ask(
      "POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n12345\r\n");
  EXPECT_EQ(reply.status, 400);
  EXPECT_EQ(reply.Field("Connection"), "close");
  EXPECT_TRUE(client.AtEnd());
  EXPECT_EQ(probe_.CodeOf(0), StatusCode::kInvalidArgument);
}

TEST_F(SessionTest, SaysContinueOnceTheRequestIsAdmitted) {
  HttpClient client = Connect();
  client.Send(
      "POST /predict HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
  EXPECT_EQ(client.Receive().status, 100);
  EXPECT_EQ(client.Ask(Floats({7})).body, Floats({7}));
}

TEST_F(SessionTest, RefusesInPlaceOfContinue) {
  engine_options_.max_request_bytes = 1000;
  const std::string tail = "Host: a\r\nExpect: 100-continue\r\nContent-Length: 4000\r\n\r\n";
  EXPECT_EQ(Connect().Ask("POST /predict HTTP/1.1\r\n" + tail).status, 413);
  EXPECT_EQ(Connect().Ask("POST /v1/models/no:predict HTTP/1.1\r\n" + tail).status, 404);
  EXPECT_EQ(Connect().Ask("POST /predict?shape=2 HTTP/1.1\r\n" + tail).status, 400);
  HttpClient client = Connect();
  EXPECT_EQ(client.Ask("POST /no HTTP/1.1\r\n" + tail).status, 404);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(SessionTest, ARefusalIsReadableWhileTheClientStillSends) {
  HttpClient client = Connect();
  const std::string body(8 << 20, 'x');
  client.Send(Post("/v1/models/no:predict", body));
  const HttpReply reply = client.Receive();
  EXPECT_EQ(reply.status, 404);
  EXPECT_THAT(reply.body, HasSubstr("\"code\": \"NOT_FOUND\""));
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(SessionTest, SaysBothSizesWhenTheyDiffer) {
  const HttpReply reply = Connect().Ask(Post("/predict?shape=3000", "1234"));
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.body, HasSubstr("4 bytes"));
  EXPECT_THAT(reply.body, HasSubstr("12000"));
}

TEST_F(SessionTest, RecognisesNpyWithoutItsType) {
  HttpClient client = Connect();
  const std::string npy = NpyHeader({"", DType::kFloat32, {2}}) + Floats({1, 2});
  const HttpReply reply =
      client.Ask(Post("/predict", npy, "Content-Type: application/x-www-form-urlencoded\r\n"));
  EXPECT_EQ(reply.Field("Content-Type"), "application/x-npy");
  EXPECT_EQ(reply.body, npy);
  EXPECT_EQ(client.Ask(Post("/predict", npy, "Content-Type: application/x-npy\r\n")).body, npy);
}

TEST_F(SessionTest, RefusesAWrongNpyAtItsHeader) {
  HttpClient client = Connect();
  const std::string header = NpyHeader({"", DType::kFloat64, {1000}});
  client.Send(absl::StrCat("POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: ",
                           header.size() + 8000, "\r\n\r\n", header));
  const HttpReply reply = client.Receive();
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.body, HasSubstr("float64"));
}

TEST_F(SessionTest, AnswersJsonAsItWasAsked) {
  HttpClient client = Connect();
  EXPECT_EQ(client.Ask(PostJson("/predict", R"({"instances": [1, 2.5]})")).body,
            "{\"predictions\": [1,2.5]}\n");
  EXPECT_EQ(client.Ask(PostJson("/predict", R"({"inputs": {"x": [1]}})")).body,
            "{\"outputs\": [1]}\n");
  EXPECT_EQ(client.Ask(Post("/predict", Floats({1}), "Accept: application/json\r\n")).body,
            "{\"outputs\": [1]}\n");
}

TEST_F(SessionTest, TakesLargeJson) {
  HttpClient client = Connect();
  std::string text = "{\"inputs\": [1";
  for (int i = 0; i < 100'000; ++i) text += ",1";
  const HttpReply reply = client.Ask(PostJson("/predict", text + "]}"));
  EXPECT_EQ(reply.status, 200) << reply.body;
  EXPECT_GT(reply.body.size(), 200'000u);
}

TEST_F(SessionTest, AnswersSeveralOutputsOnlyAsJson) {
  HttpClient client = Connect();
  const std::string body = R"({"inputs": {"a": 1, "b": [true]}})";
  EXPECT_EQ(client.Ask(PostJson("/v1/models/identity:predict", body)).body,
            "{\"outputs\": {\"a\": 1, \"b\": [true]}}\n");
  const HttpReply reply =
      client.Ask(Post("/v1/models/identity:predict", body,
                      "Content-Type: application/json\r\nAccept: application/x-npy\r\n"));
  EXPECT_EQ(reply.status, 406);
  EXPECT_THAT(reply.body, HasSubstr("application/json"));
}

TEST_F(SessionTest, RefusesWhatItCannotReadOrWrite) {
  HttpClient client = Connect();
  EXPECT_EQ(client.Ask(Post("/predict", "", "Content-Type: text/plain\r\n")).status, 415);
  EXPECT_EQ(client.Ask(Post("/predict", "", "Accept: text/html\r\n")).status, 406);
  EXPECT_EQ(client.Ask("POST /predict HTTP/1.1\r\nHost: a\r\n\r\n").status, 411);
}

TEST_F(SessionTest, ServesItsPages) {
  HttpClient client = Connect();
  EXPECT_EQ(client.Ask(Get("/v1/models")).body, "{\"models\": [\"fake\", \"identity\"]}\n");
  EXPECT_THAT(client.Ask(Get("/v1/models/fake")).body,
              HasSubstr(R"("inputs": [{"name": "x", "dtype": "float32", "shape": [-1]}])"));
  EXPECT_EQ(client.Ask(Get("/v1/models/no")).status, 404);
  EXPECT_EQ(client.Ask(Get("/readyz")).status, 200);
  const HttpReply reply = client.Ask("DELETE /v1/models HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(reply.status, 405);
  EXPECT_EQ(reply.Field("Allow"), "GET, HEAD");
}

TEST_F(SessionTest, HeadHasNoBody) {
  HttpClient client = Connect();
  client.Send("HEAD /healthz HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_EQ(client.Receive(true).Field("Content-Length"), "3");
  EXPECT_EQ(client.Ask(Get("/healthz")).body, "ok\n");
}

TEST_F(SessionTest, Http10ClosesUnlessAskedToStay) {
  HttpClient client = Connect();
  const HttpReply kept = client.Ask("GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
  EXPECT_EQ(kept.Field("Connection"), "keep-alive");
  EXPECT_EQ(client.Ask("GET /healthz HTTP/1.0\r\n\r\n").Field("Connection"), "close");
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(SessionTest, GivesBackARequestId) {
  HttpClient client = Connect();
  EXPECT_EQ(client.Ask(Post("/predict", Floats({1}), "X-Request-Id: r-1\r\n"))
                .Field("Millrace-Request-Id"),
            "r-1");
}

TEST_F(SessionTest, AMalformedHeaderEndsTheConnectionAndIsCounted) {
  HttpClient client = Connect();
  EXPECT_EQ(client.Ask("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n" + Get("/healthz")).status,
            400);
  EXPECT_TRUE(client.AtEnd());
  EXPECT_EQ(probe_.CodeOf(0), StatusCode::kInvalidArgument);
}

TEST_F(SessionTest, ALongHeaderIsRefusedBeforeItsEnd) {
  EXPECT_EQ(Connect().Ask("GET /" + std::string(17 << 10, 'x')).status, 431);
}

TEST_F(SessionTest, ASlowHeaderTimesOut) {
  options_.header_timeout = absl::Milliseconds(20);
  HttpClient client = Connect();
  EXPECT_EQ(client.Ask("GET / HTTP").status, 408);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(SessionTest, AnIdleConnectionIsClosed) {
  options_.idle_timeout = absl::Milliseconds(20);
  EXPECT_TRUE(Connect().AtEnd());
}

TEST_F(SessionTest, ATimerThatComesTooEarlyIsSetAgain) {
  options_.header_timeout = options_.idle_timeout = absl::Seconds(1);
  HttpClient client = Connect("GET /healthz HTT");
  EXPECT_EQ(client.Ask("P/1.1\r\nHost: a\r\n\r\n").status, 200);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(SessionTest, ABodyThatStallsTimesOut) {
  engine_options_.stall_timeout = absl::Milliseconds(20);
  HttpClient client = Connect();
  client.Send("POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 400\r\n\r\n1234");
  EXPECT_EQ(client.Receive().status, 408);
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(SessionTest, ADeadlineThatPassesInTheModelIsTheServers) {
  engine_options_.request_timeout = absl::Milliseconds(20);
  HttpClient client = Connect();
  model_->Hold();
  EXPECT_EQ(client.Ask(Post("/predict", Floats({1}))).status, 504);
}

TEST_F(SessionTest, AClientThatLeavesInTheBodyGivesItsMemoryBack) {
  HttpClient client = Connect();
  client.Send("POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 400000\r\n\r\n1234");
  client.Close();
  EXPECT_EQ(probe_.CodeOf(0), StatusCode::kCancelled);
  WaitForClose();
  EXPECT_EQ(pool_->usage().promised, 0u);
}

TEST_F(SessionTest, AClientThatLeavesInTheModelIsNoticed) {
  for (const bool reset : {false, true}) {
    HttpClient client = Connect();
    model_->Hold();
    client.Send(Post("/predict", Floats({1})) + Get("/healthz"));
    model_->WaitUntilStarted(reset ? 2 : 1);
    reset ? client.Reset() : client.Close();
    EXPECT_EQ(probe_.CodeOf(reset ? 1 : 0), StatusCode::kCancelled);
    WaitForClose();
    model_->Release();
    model_->WaitUntilIdle();
  }
}

TEST_F(SessionTest, AClientThatLeavesWhileItWaitsForMemoryIsNoticed) {
  pool_options_.limit = 8 << 20;
  HttpClient first = Connect();
  model_->Hold();
  first.Send(Post("/predict?shape=1500000", Floats(std::vector<float>(1'500'000))));
  model_->WaitUntilStarted(1);
  HttpClient second = Connect();
  second.Send(
      "POST /predict?shape=1500000 HTTP/1.1\r\nHost: a\r\nContent-Length: 6000000\r\n\r\n1");
  second.Close();
  EXPECT_EQ(probe_.CodeOf(0), StatusCode::kCancelled);
  WaitForClose();
}

TEST_F(SessionTest, TellsAnOverloadedClientWhenToComeBack) {
  engine_options_.max_calls = 1;
  HttpClient first = Connect();
  model_->Hold();
  first.Send(Post("/predict", Floats({1})));
  model_->WaitUntilStarted(1);
  const HttpReply reply = Connect().Ask(Post("/predict", Floats({1})));
  EXPECT_EQ(reply.status, 429);
  EXPECT_EQ(reply.Field("Retry-After"), "1");
}

TEST_F(SessionTest, DrainClosesIdleConnections) {
  HttpClient client = Connect();
  EXPECT_EQ(client.Ask(Get("/healthz")).status, 200);
  transport_->Drain();
  EXPECT_TRUE(client.AtEnd());
  EXPECT_TRUE(Connect().AtEnd());
}

TEST_F(SessionTest, DrainLetsARequestEnd) {
  HttpClient client = Connect();
  model_->Hold();
  client.Send(Post("/predict", Floats({1})));
  model_->WaitUntilStarted(1);
  transport_->Drain();
  engine_->StopAdmitting();
  model_->Release();
  const HttpReply reply = client.Receive();
  EXPECT_EQ(reply.body, Floats({1}));
  EXPECT_EQ(reply.Field("Connection"), "close");
  EXPECT_TRUE(client.AtEnd());
}

TEST_F(SessionTest, ADrainingServerSaysSo) {
  Connect();
  engine_->StopAdmitting();
  EXPECT_EQ(Connect().Ask(Get("/readyz")).status, 503);
  EXPECT_EQ(Connect().Ask(Post("/predict", Floats({1}))).status, 503);
}

TEST_F(SessionTest, EveryFormIsReportedUnderItsName) {
  HttpClient client = Connect();
  client.Ask(Post("/predict", Floats({1})));
  client.Ask(PostJson("/predict", "{\"inputs\": [1]}"));
  client.Ask(Post("/predict", "", "Content-Type: text/plain\r\n"));
  EXPECT_THAT(probe_.ways(), ElementsAre("http-raw", "http-json", "http"));
}

}  // namespace
}  // namespace millrace
