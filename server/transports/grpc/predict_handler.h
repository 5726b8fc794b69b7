// The three methods that carry tensors.
#pragma once

#include "server/core/engine.h"
#include "server/transports/grpc/grpc_transport.h"
#include "server/transports/grpc/rpc.h"

namespace millrace {

// What tells them apart: how the tensors come, and how they go.
struct PredictForm {
  absl::string_view way;   // for reports; lives forever
  bool pieces_up = false;  // a header, then pieces; or else all in one message
  bool pieces_down = false;
};

inline constexpr PredictForm kPredict = {"grpc-unary"};
inline constexpr PredictForm kPredictStream = {"grpc-stream", true};
inline constexpr PredictForm kPredictDuplex = {"grpc-duplex", true, true};

// Both must outlive every call.
MakeRpcHandler PredictHandlers(const PredictForm& form, const GrpcOptions& options, Engine& engine);

}  // namespace millrace
