// A server in this process: engine, acceptor and gRPC on real loopback sockets, with models of the
// test's choice.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>

#include "server/core/engine.h"
#include "server/transports/acceptor.h"
#include "server/transports/grpc/grpc_transport.h"
#include "tests/fakes/recording_probe.h"

namespace millrace {

struct GrpcServerOptions {
  SlabPoolOptions arena = {.limit = 64 << 20};
  EngineOptions engine = {.threads = 2};
  GrpcOptions grpc;
  AcceptorOptions acceptor = {.binds = {"127.0.0.1:0"}};
};

class GrpcServer {
 public:
  GrpcServer(GrpcServerOptions options, std::unique_ptr<Model> model) : pool_(options.arena) {
    EXPECT_TRUE(registry_.Add(std::move(model)).ok());
    engine_.emplace(options.engine, pool_, registry_, probe_);
    grpc_.emplace(options.grpc, *engine_, threads_.first());
    acceptor_.emplace(
        options.acceptor, threads_,
        [this](Connection connection) { grpc_->Serve(std::move(connection)); }, [](Connection) {});
    EXPECT_TRUE(acceptor_->Listen().ok());
    EXPECT_TRUE(grpc_->Start().ok());
    acceptor_->Start();
  }

  ~GrpcServer() {
    acceptor_->Stop();
    engine_->Drain(absl::Seconds(5));
    grpc_->Stop(absl::Seconds(1));
    threads_.Stop();
  }

  const std::string& address() const { return acceptor_->addresses().front(); }
  Engine& engine() { return *engine_; }
  SlabPool& pool() { return pool_; }
  RecordingProbe& probe() { return probe_; }
  GrpcTransport& grpc() { return *grpc_; }
  Acceptor& acceptor() { return *acceptor_; }

 private:
  SlabPool pool_;
  Registry registry_;
  RecordingProbe probe_;
  std::optional<Engine> engine_;
  IoThreads threads_{1};
  std::optional<GrpcTransport> grpc_;
  std::optional<Acceptor> acceptor_;
};

}  // namespace millrace
