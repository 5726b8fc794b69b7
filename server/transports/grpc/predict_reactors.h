// The three calls that carry tensors, as gRPC reactors over raw messages.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include "server/core/engine.h"
#include "server/transports/grpc/connections.h"
#include "server/transports/grpc/grpc_transport.h"

namespace millrace {

// What every call needs.  Outlives all of them.
struct GrpcServices {
  const GrpcOptions& options;
  Engine& engine;
  GrpcConnections& connections;
};

// Each starts one call and returns its reactor, which owns itself.  Called by gRPC.
grpc::ServerUnaryReactor* StartPredict(GrpcServices services, grpc::CallbackServerContext* context,
                                       const grpc::ByteBuffer* request, grpc::ByteBuffer* response);
grpc::ServerReadReactor<grpc::ByteBuffer>* StartPredictStream(GrpcServices services,
                                                              grpc::CallbackServerContext* context,
                                                              grpc::ByteBuffer* response);
grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* StartPredictDuplex(
    GrpcServices services, grpc::CallbackServerContext* context);

}  // namespace millrace
