// The standard services, called as a tool without stubs does.
#include <gmock/gmock.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include <google/protobuf/descriptor.pb.h>

#include "proto/grpc/health/v1/health.pb.h"
#include "proto/grpc/reflection/v1/reflection.pb.h"
#include "proto/millrace/v1/prediction.pb.h"
#include "server/transports/grpc/unary_handler.h"
#include "tests/fakes/fake_model.h"
#include "tests/fakes/grpc_server.h"

namespace millrace {
namespace {

using grpc::StatusCode;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;
using testing::Contains;
using testing::IsEmpty;
using testing::SizeIs;

// A call with any number of messages either way, one step at a time.
class OpenCall {
 public:
  OpenCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& method)
      : stub_(channel) {
    context_.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    stream_ = stub_.PrepareCall(&context_, method, &queue_);
    stream_->StartCall(nullptr);
    Await();
  }

  bool Write(const google::protobuf::MessageLite& message) {
    return WriteBytes(message.SerializeAsString());
  }

  bool WriteBytes(const std::string& bytes) {
    const grpc::Slice slice(bytes);
    stream_->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    return Await();
  }

  // False: no more messages come.
  bool Read(google::protobuf::MessageLite& message) {
    grpc::ByteBuffer buffer;
    stream_->Read(&buffer, nullptr);
    return Await() && Parse(buffer, message);
  }

  void WritesDone() {
    stream_->WritesDone(nullptr);
    Await();
  }

  grpc::Status Finish() {
    grpc::Status status;
    stream_->Finish(&status, nullptr);
    Await();
    return status;
  }

  void Cancel() { context_.TryCancel(); }

 private:
  bool Await() {
    void* tag = nullptr;
    bool ok = false;
    return queue_.Next(&tag, &ok) && ok;
  }

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> stream_;
};

class ServicesTest : public testing::Test {
 protected:
  ServicesTest()
      : server_(std::make_unique<GrpcServer>(GrpcServerOptions{}, std::make_unique<FakeModel>())),
        channel_(grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials())) {}

  // One message up and one down.
  grpc::Status Call(const std::string& method, const google::protobuf::MessageLite& request,
                    google::protobuf::MessageLite& response) {
    OpenCall call(channel_, method);
    call.Write(request);
    call.WritesDone();
    call.Read(response);
    return call.Finish();
  }

  grpc::Status Check(const std::string& service, HealthCheckResponse& response) {
    HealthCheckRequest request;
    request.set_service(service);
    return Call("/grpc.health.v1.Health/Check", request, response);
  }

  ServerReflectionResponse Reflect(const ServerReflectionRequest& request) {
    ServerReflectionResponse response;
    const grpc::Status status =
        Call("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", request, response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }

  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
};

TEST_F(ServicesTest, ChecksTheServerAndItsServices) {
  HealthCheckResponse response;
  ASSERT_TRUE(Check("", response).ok());
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  ASSERT_TRUE(Check("millrace.v1.PredictionService", response).ok());
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  EXPECT_EQ(Check("no.such.Service", response).error_code(), StatusCode::NOT_FOUND);
  server_->grpc().StopServing();
  ASSERT_TRUE(Check("", response).ok());
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
}

TEST_F(ServicesTest, WatchesTellOfChangesAndEndWithTheServer) {
  OpenCall known(channel_, "/grpc.health.v1.Health/Watch");
  OpenCall unknown(channel_, "/grpc.health.v1.Health/Watch");
  HealthCheckRequest request;
  HealthCheckResponse response;
  known.Write(request);
  ASSERT_TRUE(known.Read(response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  request.set_service("no.such.Service");
  unknown.Write(request);
  ASSERT_TRUE(unknown.Read(response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVICE_UNKNOWN);

  server_->grpc().StopServing();
  ASSERT_TRUE(known.Read(response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  server_->grpc().Stop(absl::Seconds(5));
  EXPECT_FALSE(known.Read(response));
  EXPECT_EQ(known.Finish().error_code(), StatusCode::UNAVAILABLE);
  EXPECT_FALSE(unknown.Read(response));
  EXPECT_EQ(unknown.Finish().error_code(), StatusCode::UNAVAILABLE);
}

TEST_F(ServicesTest, AWatchMayBeCancelled) {
  OpenCall watch(channel_, "/grpc.health.v1.Health/Watch");
  HealthCheckResponse response;
  watch.Write(HealthCheckRequest());
  ASSERT_TRUE(watch.Read(response));
  watch.Cancel();
  EXPECT_EQ(watch.Finish().error_code(), StatusCode::CANCELLED);
  server_->grpc().StopServing();  // Nobody is told.
}

TEST_F(ServicesTest, ListsTheServices) {
  ServerReflectionRequest request;
  request.set_host("me");
  request.set_list_services("");
  const ServerReflectionResponse response = Reflect(request);
  EXPECT_EQ(response.valid_host(), "me");
  EXPECT_TRUE(response.original_request().has_list_services());
  std::vector<std::string> names;
  for (const auto& service : response.list_services_response().service())
    names.push_back(service.name());
  EXPECT_THAT(names, Contains("millrace.v1.PredictionService"));
  EXPECT_THAT(names, Contains("grpc.health.v1.Health"));
}

TEST_F(ServicesTest, DescribesEveryServiceThatItLists) {
  ServerReflectionRequest request;
  request.set_list_services("");
  const ServerReflectionResponse list = Reflect(request);
  for (const auto& service : list.list_services_response().service()) {
    ServerReflectionRequest question;
    question.set_file_containing_symbol(service.name());
    const ServerReflectionResponse answer = Reflect(question);
    // Whatever it was given before must be enough for a file to be built.
    google::protobuf::DescriptorPool pool;
    for (const std::string& bytes : answer.file_descriptor_response().file_descriptor_proto()) {
      google::protobuf::FileDescriptorProto file;
      ASSERT_TRUE(file.ParseFromString(bytes));
      ASSERT_NE(pool.BuildFile(file), nullptr);
    }
    EXPECT_NE(pool.FindServiceByName(service.name()), nullptr) << service.name();
  }
}

TEST_F(ServicesTest, DescribesFilesByName) {
  ServerReflectionRequest request;
  request.set_file_by_filename(std::string(v1::PredictRequest::descriptor()->file()->name()));
  const ServerReflectionResponse response = Reflect(request);
  EXPECT_THAT(response.file_descriptor_response().file_descriptor_proto(), SizeIs(1));
}

TEST_F(ServicesTest, KnowsExtensionsByTheirNumbers) {
  ServerReflectionRequest request;
  request.set_all_extension_numbers_of_type("millrace.v1.PredictRequest");
  const ServerReflectionResponse response = Reflect(request);
  ASSERT_TRUE(response.has_all_extension_numbers_response());
  EXPECT_THAT(response.all_extension_numbers_response().extension_number(), IsEmpty());
}

TEST_F(ServicesTest, SaysWhatItDoesNotKnow) {
  std::vector<ServerReflectionRequest> requests(5);  // the last one asks nothing
  requests[0].set_file_by_filename("nothing.proto");
  requests[1].set_file_containing_symbol("nothing");
  requests[2].mutable_file_containing_extension()->set_containing_type("nothing");
  requests[3].set_all_extension_numbers_of_type("nothing");
  for (const ServerReflectionRequest& request : requests)
    EXPECT_EQ(Reflect(request).error_response().error_code(), StatusCode::NOT_FOUND);
}

TEST_F(ServicesTest, AnswersOneQuestionAfterTheOther) {
  OpenCall call(channel_, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo");
  ServerReflectionRequest request;
  request.set_list_services("");
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(call.Write(request));
    ServerReflectionResponse response;
    ASSERT_TRUE(call.Read(response));
    EXPECT_TRUE(response.has_list_services_response());
  }
  call.WritesDone();
  EXPECT_TRUE(call.Finish().ok());
}

TEST_F(ServicesTest, RefusesWhatIsNoRequest) {
  for (const char* method : {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
                             "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                             "/millrace.v1.PredictionService/GetModel"}) {
    OpenCall malformed(channel_, method);
    malformed.WriteBytes("\xff");
    EXPECT_EQ(malformed.Finish().error_code(), StatusCode::INVALID_ARGUMENT) << method;
  }
  for (const char* method : {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch",
                             "/millrace.v1.PredictionService/Predict"}) {
    OpenCall empty(channel_, method);
    empty.WritesDone();
    EXPECT_EQ(empty.Finish().error_code(), StatusCode::INVALID_ARGUMENT) << method;
  }
}

TEST_F(ServicesTest, HasNoOtherMethods) {
  HealthCheckResponse response;
  EXPECT_EQ(Call("/no.such.Service/Method", HealthCheckRequest(), response).error_code(),
            StatusCode::UNIMPLEMENTED);
}

}  // namespace
}  // namespace millrace
