#include "server/transports/grpc/heartbeat.h"

#include <grpcpp/client_context.h>
#include <grpcpp/support/channel_arguments.h>

#include <utility>

namespace millrace {
namespace {

constexpr absl::Duration kPeriod = absl::Milliseconds(200);

struct Exchange {
  grpc::ClientContext context;
  v1::GetModelRequest request;
  v1::GetModelResponse response;
};

}  // namespace

Heartbeat::Heartbeat(grpc::Server& server)
    : stub_(v1::PredictionService::NewStub(server.InProcessChannel(grpc::ChannelArguments()))),
      thread_([this] { Run(); }) {}

Heartbeat::~Heartbeat() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    changed_.NotifyAll();
  }
  thread_.join();
}

void Heartbeat::Run() {
  while (true) {
    {
      MutexLock lock(mu_);
      if (!stopping_) changed_.WaitFor(mu_, kPeriod);
      while (calling_) changed_.Wait(mu_);
      if (stopping_) return;
      calling_ = true;
    }
    Beat();
  }
}

void Heartbeat::Beat() {
  auto* const exchange = new Exchange();
  stub_->async()->GetModel(&exchange->context, &exchange->request, &exchange->response,
                           [this, exchange](const grpc::Status&) {
                             // First, because it holds the channel: gRPC must not lose its last
                             // channel or server on a thread of its own, which it would wait for.
                             delete exchange;
                             MutexLock lock(mu_);
                             calling_ = false;
                             changed_.NotifyAll();
                           });
}

}  // namespace millrace
