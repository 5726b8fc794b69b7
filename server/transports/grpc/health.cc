#include "server/transports/grpc/health.h"

#include <absl/strings/str_cat.h>

#include <optional>
#include <utility>

#include "server/transports/grpc/unary_handler.h"

namespace millrace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

// Tells a client of each change that it can take: while a message is on its way, only the newest
// state waits.  Everything under the lock of Health.
class Health::Watch final : public RpcHandler {
 public:
  Watch(Health& health, Rpc& rpc) : health_(health), rpc_(rpc) {}
  ~Watch() override { health_.Remove(this); }

  void OnStart() override { rpc_.Read(); }

  void OnMessage(grpc::ByteBuffer& message) override {
    HealthCheckRequest request;
    if (!Parse(message, request))
      return rpc_.Finish({grpc::StatusCode::INVALID_ARGUMENT, "the request is malformed"});
    service_ = request.service();
    health_.Add(this);
  }

  void OnEnd() override {
    rpc_.Finish({grpc::StatusCode::INVALID_ARGUMENT, "the call ended without a request"});
  }

  void OnWritten(bool ok) override {
    if (!ok) return rpc_.Finish({grpc::StatusCode::CANCELLED, "the client went away"});
    MutexLock lock(health_.mu_);
    writing_ = false;
    Tell(health_.StatusOf(service_));
  }

  void OnCancel() override {
    rpc_.Finish({grpc::StatusCode::CANCELLED, "the client cancelled the call"});
  }

  void Tell(Status now) {
    if (writing_ || told_ == now) return;
    writing_ = true;
    told_ = now;
    HealthCheckResponse response;
    response.set_status(now);
    rpc_.Write(Serialize(response));
  }

  const std::string& service() const { return service_; }

  void End() { rpc_.Finish({grpc::StatusCode::UNAVAILABLE, "the server is shutting down"}); }

 private:
  Health& health_;
  Rpc& rpc_;
  std::string service_;  // once the watch is added
  bool writing_ = false;
  std::optional<Status> told_;
};

Health::Health(std::vector<std::string> services) : services_(services.begin(), services.end()) {}

void Health::AddTo(RpcMethods& methods) {
  methods["/grpc.health.v1.Health/Check"] = UnaryHandlers<HealthCheckRequest, HealthCheckResponse>(
      [this](const HealthCheckRequest& request, HealthCheckResponse& response) -> grpc::Status {
        MutexLock lock(mu_);
        response.set_status(StatusOf(request.service()));
        if (response.status() != HealthCheckResponse::SERVICE_UNKNOWN) return grpc::Status::OK;
        return {grpc::StatusCode::NOT_FOUND, "the server has no such service"};
      });
  methods["/grpc.health.v1.Health/Watch"] = [this](Rpc& rpc) {
    return std::make_unique<Watch>(*this, rpc);
  };
}

Health::Status Health::StatusOf(const std::string& service) const {
  if (!service.empty() && !services_.contains(service)) return HealthCheckResponse::SERVICE_UNKNOWN;
  return serving_ ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING;
}

void Health::SetServing(bool serving) {
  MutexLock lock(mu_);
  serving_ = serving;
  for (Watch* watch : watches_) watch->Tell(StatusOf(watch->service()));
}

void Health::EndWatches() {
  MutexLock lock(mu_);
  ended_ = true;
  for (Watch* watch : watches_) watch->End();
}

void Health::Add(Watch* watch) {
  MutexLock lock(mu_);
  if (ended_) return watch->End();
  watches_.insert(watch);
  watch->Tell(StatusOf(watch->service()));
}

void Health::Remove(Watch* watch) {
  MutexLock lock(mu_);
  watches_.erase(watch);
}

}  // namespace millrace
