// Methods that answer one message with another, at once.
#pragma once

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/proto_buffer_reader.h>
#include <grpcpp/support/slice.h>
#include <grpcpp/support/status.h>

#include <functional>
#include <memory>
#include <utility>

#include "server/transports/grpc/rpc.h"

namespace millrace {

inline bool Parse(grpc::ByteBuffer& buffer, google::protobuf::MessageLite& message) {
  grpc::ProtoBufferReader reader(&buffer);
  return reader.status().ok() && message.ParseFromZeroCopyStream(&reader);
}

inline grpc::ByteBuffer Serialize(const google::protobuf::MessageLite& message) {
  const grpc::Slice slice(message.SerializeAsString());
  return {&slice, 1};
}

// Called by the queues' threads, from several at once.
template <typename Request, typename Response>
using UnaryMethod = std::function<grpc::Status(const Request&, Response&)>;

template <typename Request, typename Response>
class UnaryHandler final : public RpcHandler {
 public:
  using Method = UnaryMethod<Request, Response>;

  UnaryHandler(Rpc& rpc, const Method& method) : rpc_(rpc), method_(method) {}

  void OnStart() override { rpc_.Read(); }

  void OnMessage(grpc::ByteBuffer& message) override {
    Request request;
    if (!Parse(message, request))
      return rpc_.Finish({grpc::StatusCode::INVALID_ARGUMENT, "the request is malformed"});
    Response response;
    const grpc::Status status = method_(request, response);
    if (!status.ok()) return rpc_.Finish(status);
    rpc_.FinishWith(Serialize(response));
  }

  void OnEnd() override {
    rpc_.Finish({grpc::StatusCode::INVALID_ARGUMENT, "the call ended without a request"});
  }

 private:
  Rpc& rpc_;
  const Method& method_;
};

template <typename Request, typename Response>
MakeRpcHandler UnaryHandlers(UnaryMethod<Request, Response> method) {
  return [method = std::move(method)](Rpc& rpc) {
    return std::make_unique<UnaryHandler<Request, Response>>(rpc, method);
  };
}

}  // namespace millrace
