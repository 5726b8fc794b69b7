#include "server/transports/grpc/grpc_transport.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <future>
#include <string>
#include <vector>

#include "proto/millrace/v1/prediction.grpc.pb.h"
#include "tests/fakes/fake_model.h"
#include "tests/fakes/grpc_server.h"

namespace millrace {
namespace {

using grpc::StatusCode;
using testing::HasSubstr;
using v1::PredictDuplexRequest;
using v1::PredictDuplexResponse;
using v1::PredictStreamRequest;
using v1::PredictStreamResponse;

std::string Floats(size_t count) {
  std::string bytes(count * sizeof(float), '\0');
  for (size_t i = 0; i < count; ++i) {
    const auto value = static_cast<float>(i);
    std::memcpy(&bytes[i * sizeof value], &value, sizeof value);
  }
  return bytes;
}

v1::RequestHeader Header(int64_t count) {
  v1::RequestHeader header;
  v1::Tensor& tensor = *header.add_tensors();
  tensor.set_name("x");
  tensor.set_data_type(v1::DATA_TYPE_FLOAT32);
  tensor.add_shape(count);
  return header;
}

class GrpcTransportTest : public testing::Test {
 protected:
  void Start(GrpcServerOptions options = {}) {
    auto model = std::make_unique<FakeModel>();
    model_ = model.get();
    server_ = std::make_unique<GrpcServer>(options, std::move(model));
    channel_ = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    stub_ = v1::PredictionService::NewStub(channel_);
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  }

  // A stream of these messages.
  grpc::Status Stream(const std::vector<PredictStreamRequest>& messages,
                      PredictStreamResponse* response) {
    const auto writer = stub_->PredictStream(&context_, response);
    for (const PredictStreamRequest& message : messages) {
      if (!writer->Write(message)) break;
    }
    writer->WritesDone();
    return writer->Finish();
  }

  static PredictStreamRequest HeaderMessage(int64_t count) {
    PredictStreamRequest message;
    *message.mutable_header() = Header(count);
    return message;
  }

  static PredictStreamRequest Piece(std::string bytes) {
    PredictStreamRequest message;
    message.set_payload(std::move(bytes));
    return message;
  }

  void WaitUntilNothingIsPromised() {
    while (server_->pool().usage().promised > 0) std::this_thread::yield();
  }

  FakeModel* model_ = nullptr;
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::PredictionService::Stub> stub_;
  grpc::ClientContext context_;
};

TEST_F(GrpcTransportTest, AnswersAUnaryCall) {
  Start();
  v1::PredictRequest request;
  *request.mutable_header() = Header(1000);
  request.mutable_header()->set_request_id("id-1");
  request.set_payload(Floats(1000));
  v1::PredictResponse response;
  const grpc::Status status = stub_->Predict(&context_, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.payload(), request.payload());
  EXPECT_EQ(response.header().model(), "fake");
  EXPECT_EQ(response.header().request_id(), "id-1");
  EXPECT_EQ(response.header().tensors(0).name(), "y");
}

TEST_F(GrpcTransportTest, TellsWhereTheTimeWent) {
  Start();
  PredictStreamResponse response;
  ASSERT_TRUE(Stream({HeaderMessage(1), Piece(Floats(1))}, &response).ok());
  const auto timing = context_.GetServerTrailingMetadata().find("millrace-timing");
  ASSERT_NE(timing, context_.GetServerTrailingMetadata().end());
  EXPECT_THAT(std::string(timing->second.data(), timing->second.size()), HasSubstr("receive;dur="));
}

TEST_F(GrpcTransportTest, AssemblesPiecesCutAnywhere) {
  Start();
  const std::string payload = Floats(250);
  std::vector<PredictStreamRequest> messages = {HeaderMessage(250)};
  for (size_t i = 0; i < payload.size(); i += 7) messages.push_back(Piece(payload.substr(i, 7)));
  messages.push_back(Piece(""));
  PredictStreamResponse response;
  ASSERT_TRUE(Stream(messages, &response).ok());
  EXPECT_EQ(response.payload(), payload);
}

TEST_F(GrpcTransportTest, DuplexAnswersInPieces) {
  Start();
  const std::string payload = Floats(1'000'000);
  const auto stream = stub_->PredictDuplex(&context_);
  PredictDuplexRequest message;
  *message.mutable_header() = Header(1'000'000);
  ASSERT_TRUE(stream->Write(message));
  message.set_payload(payload);
  ASSERT_TRUE(stream->Write(message));
  stream->WritesDone();
  PredictDuplexResponse part;
  ASSERT_TRUE(stream->Read(&part));
  EXPECT_EQ(part.header().tensors(0).shape(0), 1'000'000);
  std::string answer;
  int pieces = 0;
  for (; stream->Read(&part); ++pieces) answer += part.payload();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_TRUE(answer == payload);
  EXPECT_GT(pieces, 1);
}

TEST_F(GrpcTransportTest, RefusesAnAnswerTooLargeForOneMessage) {
  Start({.grpc = {.max_unary_bytes = 1 << 20}});
  std::vector<PredictStreamRequest> messages = {HeaderMessage(1'000'000)};
  const std::string payload = Floats(1'000'000);
  for (size_t i = 0; i < payload.size(); i += 500'000)
    messages.push_back(Piece(payload.substr(i, 500'000)));
  PredictStreamResponse response;
  const grpc::Status status = Stream(messages, &response);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("call PredictDuplex"));
}

struct BadStream {
  const char* name;
  std::vector<PredictStreamRequest> messages;
  const char* expected;
};

TEST_F(GrpcTransportTest, RefusesStreamsThatBreakTheRules) {
  Start();
  PredictStreamRequest nothing;
  const std::vector<BadStream> cases = {
      {"nothing", {}, "without a header"},
      {"payload first", {Piece("1234")}, "first message must hold the header"},
      {"empty first", {nothing}, "first message must hold the header"},
      {"second header", {HeaderMessage(1), HeaderMessage(1)}, "a second header"},
      {"too few bytes",
       {HeaderMessage(2), Piece("1234")},
       "ended after 4 bytes; the header says 8"},
      {"too many bytes",
       {HeaderMessage(1), Piece("12345")},
       "longer than the header says: 4 bytes"},
      {"bytes after the end",
       {HeaderMessage(1), Piece("1234"), Piece("5")},
       "longer than the header says"},
      {"negative shape", {HeaderMessage(-1)}, "negative dimension"},
      {"huge shape", {HeaderMessage(INT64_MAX)}, "more bytes than 63 bits count"},
  };
  for (const BadStream& bad : cases) {
    grpc::ClientContext context;
    PredictStreamResponse response;
    const auto writer = stub_->PredictStream(&context, &response);
    for (const PredictStreamRequest& message : bad.messages) writer->Write(message);
    writer->WritesDone();
    const grpc::Status status = writer->Finish();
    EXPECT_EQ(status.error_code(), StatusCode::INVALID_ARGUMENT) << bad.name;
    EXPECT_THAT(status.error_message(), HasSubstr(bad.expected)) << bad.name;
  }
  WaitUntilNothingIsPromised();
}

TEST_F(GrpcTransportTest, RefusesMoreThanTheServerHasRoomForBeforeAnyByte) {
  Start();
  PredictStreamResponse response;
  const auto writer = stub_->PredictStream(&context_, &response);
  writer->Write(HeaderMessage(1'000'000'000));
  const grpc::Status status = writer->Finish();
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("takes at most"));
}

TEST_F(GrpcTransportTest, RefusesMuchMetadata) {
  Start({.grpc = {.max_metadata_bytes = 4000}});
  for (int i = 0; i < 5; ++i)
    context_.AddMetadata("key" + std::to_string(i), std::string(1000, 'x'));
  PredictStreamResponse response;
  const grpc::Status status = Stream({HeaderMessage(1), Piece(Floats(1))}, &response);
  EXPECT_EQ(status.error_code(), StatusCode::RESOURCE_EXHAUSTED) << status.error_message();
}

TEST_F(GrpcTransportTest, RefusesCompressedMessagesWithoutInflatingThem) {
  Start();
  context_.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  PredictStreamResponse response;
  const grpc::Status status =
      Stream({HeaderMessage(1'000'000), Piece(std::string(1 << 20, '\0'))}, &response);
  EXPECT_EQ(status.error_code(), StatusCode::UNIMPLEMENTED) << status.error_message();
}

TEST_F(GrpcTransportTest, ACancelledCallFreesItsMemory) {
  Start();
  PredictStreamResponse response;
  const auto writer = stub_->PredictStream(&context_, &response);
  writer->Write(HeaderMessage(1'000'000));
  writer->Write(Piece(std::string(1000, 'x')));
  while (server_->pool().usage().promised == 0) std::this_thread::yield();
  context_.TryCancel();
  EXPECT_EQ(writer->Finish().error_code(), StatusCode::CANCELLED);
  WaitUntilNothingIsPromised();
}

TEST_F(GrpcTransportTest, ADeadlineEndsACallThatWaitsForTheModel) {
  Start();
  model_->Hold();
  context_.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(50));
  PredictStreamResponse response;
  EXPECT_EQ(Stream({HeaderMessage(1), Piece(Floats(1))}, &response).error_code(),
            StatusCode::DEADLINE_EXCEEDED);
  model_->Release();
  WaitUntilNothingIsPromised();
}

TEST_F(GrpcTransportTest, ASilentStreamIsEnded) {
  Start({.engine = {.threads = 1, .stall_timeout = absl::Milliseconds(100)}});
  PredictStreamResponse response;
  const auto writer = stub_->PredictStream(&context_, &response);
  writer->Write(HeaderMessage(1000));
  EXPECT_EQ(writer->Finish().error_code(), StatusCode::DEADLINE_EXCEEDED);
  WaitUntilNothingIsPromised();
}

TEST_F(GrpcTransportTest, AStreamWithoutAHeaderIsEnded) {
  Start({.engine = {.threads = 1, .stall_timeout = absl::Milliseconds(100)}});
  PredictStreamResponse response;
  EXPECT_EQ(stub_->PredictStream(&context_, &response)->Finish().error_code(),
            StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(GrpcTransportTest, ACallWaitsForRoomAndThenRuns) {
  Start({.arena = {.limit = 4 << 20}});
  grpc::ClientContext first_context;
  PredictStreamResponse first_response;
  const auto first = stub_->PredictStream(&first_context, &first_response);
  first->Write(HeaderMessage(1'000'000));
  while (server_->pool().usage().promised == 0) std::this_thread::yield();
  PredictStreamResponse response;
  auto second = std::async(std::launch::async, [&] {
    return Stream({HeaderMessage(500'000), Piece(Floats(500'000))}, &response);
  });
  first_context.TryCancel();
  first->Finish();
  EXPECT_TRUE(second.get().ok());
}

TEST_F(GrpcTransportTest, AConnectionHasALimitedNumberOfCalls) {
  Start({.grpc = {.connection = {.max_calls = 2}}});
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientWriter<PredictStreamRequest>>> writers;
  PredictStreamResponse responses[2];
  for (PredictStreamResponse& response : responses) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    writers.push_back(stub_->PredictStream(contexts.back().get(), &response));
    writers.back()->Write(HeaderMessage(10));
    while (server_->pool().usage().promised < contexts.size() * 65536) std::this_thread::yield();
  }
  PredictStreamResponse response;
  EXPECT_EQ(stub_->PredictStream(&context_, &response)->Finish().error_code(),
            StatusCode::RESOURCE_EXHAUSTED);
  for (size_t i = 0; i < writers.size(); ++i) {  // The innocent ones go on.
    writers[i]->Write(Piece(Floats(10)));
    writers[i]->WritesDone();
    EXPECT_TRUE(writers[i]->Finish().ok());
  }
}

TEST_F(GrpcTransportTest, AConnectionThatResetsManyCallsIsClosed) {
  Start({.grpc = {.connection = {.max_early_resets = 5}}});
  for (int i = 0; i < 6; ++i) {
    grpc::ClientContext context;
    PredictStreamResponse response;
    const auto writer = stub_->PredictStream(&context, &response);
    while (server_->engine().open_calls() == 0) std::this_thread::yield();
    context.TryCancel();
    writer->Finish();
    while (server_->engine().open_calls() > 0) std::this_thread::yield();
  }
  while (server_->acceptor().connections() > 0) std::this_thread::yield();
}

TEST_F(GrpcTransportTest, OthersAreServedWhileOneHoldsTheThread) {
  Start({.grpc = {.threads = 1}});
  model_->SetQuick(true);
  std::atomic<bool> served = false;
  model_->Then([&served] {
    while (!served) {  // keeps the queue's thread and its processor
    }
    return absl::OkStatus();
  });
  auto first = std::async(std::launch::async, [this] {
    PredictStreamResponse response;
    return Stream({HeaderMessage(1), Piece(Floats(1))}, &response);
  });
  model_->WaitUntilStarted(1);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  v1::ListModelsResponse models;
  EXPECT_TRUE(stub_->ListModels(&context, {}, &models).ok());
  served = true;
  EXPECT_TRUE(first.get().ok());
}

TEST_F(GrpcTransportTest, ListsModels) {
  Start();
  v1::ListModelsResponse response;
  ASSERT_TRUE(stub_->ListModels(&context_, {}, &response).ok());
  EXPECT_EQ(response.default_model(), "fake");
  ASSERT_EQ(response.models_size(), 1);
  EXPECT_EQ(response.models(0).inputs(0).name(), "x");
  EXPECT_TRUE(response.models(0).ready());
}

TEST_F(GrpcTransportTest, GetsAModelOrSaysWhatThereIs) {
  Start();
  v1::GetModelRequest request;
  v1::GetModelResponse response;
  ASSERT_TRUE(stub_->GetModel(&context_, request, &response).ok());
  EXPECT_EQ(response.model().name(), "fake");
  request.set_name("nope");
  grpc::ClientContext context;
  const grpc::Status status = stub_->GetModel(&context, request, &response);
  EXPECT_EQ(status.error_code(), StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("served here: fake"));
}

TEST_F(GrpcTransportTest, GivesTheConnectionsPlaceBackWhenItCloses) {
  Start();
  {
    grpc::ClientContext context;  // Holds the connection while it lives.
    v1::ListModelsResponse response;
    ASSERT_TRUE(stub_->ListModels(&context, {}, &response).ok());
  }
  EXPECT_EQ(server_->acceptor().connections(), 1);
  stub_.reset();
  channel_.reset();
  while (server_->acceptor().connections() > 0) std::this_thread::yield();
}

}  // namespace
}  // namespace millrace
