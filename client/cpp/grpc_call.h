// Predictions over gRPC.
#pragma once

#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/types/span.h>
#include <grpcpp/channel.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/support/status.h>
#include <millrace/client.h>

#include <atomic>
#include <memory>

#include "client/cpp/socket.h"

namespace millrace::internal {

// One connection, for one call at a time.
class GrpcConnection {
 public:
  static absl::StatusOr<std::unique_ptr<GrpcConnection>> Open(const Address& address,
                                                              absl::Time deadline);
  ~GrpcConnection();

  const std::shared_ptr<grpc::Channel>& channel() { return channel_; }
  grpc::CompletionQueue& queue() { return queue_; }

  // Ends the connection at once, so that gRPC lets go of everything that it would still have
  // written.
  void Break();
  bool usable() const { return !broken_; }

 private:
  GrpcConnection(std::shared_ptr<grpc::Channel> channel, Fd socket);

  std::shared_ptr<grpc::Channel> channel_;
  Fd socket_;  // a duplicate; gRPC owns the other
  grpc::CompletionQueue queue_;
  std::atomic<bool> broken_ = false;
};

absl::Status ToAbsl(const grpc::Status& status);

// Blocks until the call is over and the tensors' bytes are in nobody's hands.
absl::StatusOr<Prediction> PredictOverGrpc(GrpcConnection& connection, absl::string_view model,
                                           absl::Span<const TensorView> inputs,
                                           const PredictOptions& options, absl::Time deadline);

}  // namespace millrace::internal
