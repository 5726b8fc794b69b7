// A gRPC server for tests of the client: gives back what it gets, unless the test says otherwise.
#pragma once

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "proto/millrace/v1/prediction.grpc.pb.h"

namespace millrace {

class FakeGrpcServer final : public v1::PredictionService::Service {
 public:
  using Duplex = grpc::ServerReaderWriter<v1::PredictDuplexResponse, v1::PredictDuplexRequest>;

  FakeGrpcServer() { Start("127.0.0.1:0"); }
  explicit FakeGrpcServer(const std::string& address) { Start(address); }
  ~FakeGrpcServer() override { Stop(); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }

  // Ends running calls.
  void Stop() {
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  void Start(const std::string& address) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.SetMaxReceiveMessageSize(-1);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }

  // In place of the echo.
  std::function<grpc::Status(grpc::ServerContext&, Duplex&)> on_duplex;

  // Of the last request.
  v1::RequestHeader header;

 private:
  static v1::ResponseHeader Answer(const v1::RequestHeader& request) {
    v1::ResponseHeader answer;
    answer.set_model(request.model());
    answer.set_version("7");
    answer.set_request_id(request.request_id());
    *answer.mutable_tensors() = request.tensors();
    return answer;
  }

  grpc::Status Predict(grpc::ServerContext*, const v1::PredictRequest* request,
                       v1::PredictResponse* response) override {
    header = request->header();
    *response->mutable_header() = Answer(header);
    response->set_payload(request->payload());
    return grpc::Status::OK;
  }

  grpc::Status PredictStream(grpc::ServerContext* context,
                             grpc::ServerReader<v1::PredictStreamRequest>* reader,
                             v1::PredictStreamResponse* response) override {
    v1::PredictStreamRequest message;
    while (reader->Read(&message)) {
      if (message.has_header()) header = message.header();
      response->mutable_payload()->append(message.payload());
    }
    *response->mutable_header() = Answer(header);
    context->AddTrailingMetadata("millrace-timing", "receive;dur=1");
    return grpc::Status::OK;
  }

  grpc::Status PredictDuplex(grpc::ServerContext* context, Duplex* stream) override {
    if (on_duplex) return on_duplex(*context, *stream);
    v1::PredictDuplexRequest request;
    v1::PredictDuplexResponse response;
    while (stream->Read(&request)) {
      if (request.has_header()) {
        header = request.header();
        *response.mutable_header() = Answer(header);
      } else {
        response.set_allocated_payload(request.release_payload());
      }
      stream->Write(response);
    }
    return grpc::Status::OK;
  }

  grpc::Status ListModels(grpc::ServerContext*, const v1::ListModelsRequest*,
                          v1::ListModelsResponse* response) override {
    FillModel(*response->add_models());
    response->add_models()->set_name("other");
    return grpc::Status::OK;
  }

  grpc::Status GetModel(grpc::ServerContext*, const v1::GetModelRequest* request,
                        v1::GetModelResponse* response) override {
    if (request->name() != "echo") return {grpc::StatusCode::NOT_FOUND, "no such model"};
    FillModel(*response->mutable_model());
    return grpc::Status::OK;
  }

  static void FillModel(v1::Model& model) {
    model.set_name("echo");
    model.set_version("7");
    model.set_ready(true);
    v1::TensorSpec& input = *model.add_inputs();
    input.set_name("image");
    input.set_data_type(v1::DATA_TYPE_FLOAT32);
    input.add_shape(-1);
    input.add_shape(3);
    input.set_scalar_broadcasts(true);
  }

  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace millrace
