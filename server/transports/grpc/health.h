// grpc.health.v1.Health, as https://github.com/grpc/grpc/blob/master/doc/health-checking.md has it.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>

#include <memory>
#include <string>
#include <vector>

#include "proto/grpc/health/v1/health.pb.h"
#include "server/core/mutex.h"
#include "server/transports/grpc/rpc.h"

namespace millrace {

// One state for the server ("") and each of its services.  Thread-safe.
class Health {
 public:
  explicit Health(std::vector<std::string> services);

  // Must outlive every call.
  void AddTo(RpcMethods& methods);

  // At first nothing is served.
  void SetServing(bool serving);

  // Ends every Watch, and those that come later, with UNAVAILABLE.
  void EndWatches();

 private:
  class Watch;
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;

  Status StatusOf(const std::string& service) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Add(Watch* watch);
  void Remove(Watch* watch);

  Mutex mu_;
  const absl::flat_hash_set<std::string> services_;
  bool serving_ ABSL_GUARDED_BY(mu_) = false;
  bool ended_ ABSL_GUARDED_BY(mu_) = false;
  absl::flat_hash_set<Watch*> watches_ ABSL_GUARDED_BY(mu_);
};

}  // namespace millrace
