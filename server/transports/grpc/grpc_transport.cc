#include "server/transports/grpc/grpc_transport.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "proto/framing/framing.h"
#include "proto/millrace/v1/prediction.grpc.pb.h"
#include "server/transports/grpc/grpc_status.h"
#include "server/transports/grpc/health.h"
#include "server/transports/grpc/predict_handler.h"
#include "server/transports/grpc/reflection.h"
#include "server/transports/grpc/rpc.h"
#include "server/transports/grpc/unary_handler.h"

namespace millrace {
namespace {

using v1::PredictionService;

// What a message may hold beside its payload: the header.
constexpr uint64_t kMaxHeaderBytes = 1 << 20;

// gRPC's own limits lie above ours, because it closes the whole connection of a client that exceeds
// them.
constexpr int kAdvertisedFactor = 4;

// What a client may send in one HTTP/2 frame: as much as our pieces hold.
constexpr int kMaxFrameSize = 1 << 20;

constexpr char kHealthService[] = "grpc.health.v1.Health";
constexpr char kReflectionService[] = "grpc.reflection.v1.ServerReflection";

void ToProto(const TensorSpec& spec, v1::TensorSpec& out) {
  out.set_name(spec.name);
  out.set_data_type(static_cast<v1::DataType>(spec.dtype));
  out.mutable_shape()->Assign(spec.shape.begin(), spec.shape.end());
  out.set_scalar_broadcasts(spec.scalar_broadcasts);
  out.set_any_shape(spec.any_shape);
}

void ToProto(const Model& model, const Engine& engine, v1::Model& out) {
  const ModelSpec& spec = model.spec();
  out.set_name(spec.name);
  out.set_version(spec.version);
  for (const TensorSpec& input : spec.inputs) ToProto(input, *out.add_inputs());
  for (const TensorSpec& output : spec.outputs) ToProto(output, *out.add_outputs());
  out.set_any_tensors(spec.any_tensors);
  out.set_ready(engine.ready() && model.ready());
}

void AddPrediction(const GrpcOptions& options, Engine& engine, RpcMethods& methods) {
  const std::string prefix = absl::StrCat("/", PredictionService::service_full_name(), "/");
  methods[prefix + "Predict"] = PredictHandlers(kPredict, options, engine);
  methods[prefix + "PredictStream"] = PredictHandlers(kPredictStream, options, engine);
  methods[prefix + "PredictDuplex"] = PredictHandlers(kPredictDuplex, options, engine);
  methods[prefix + "ListModels"] = UnaryHandlers<v1::ListModelsRequest, v1::ListModelsResponse>(
      [&engine](const v1::ListModelsRequest&, v1::ListModelsResponse& response) {
        for (const Model* model : engine.registry().List())
          ToProto(*model, engine, *response.add_models());
        response.set_default_model(std::string(engine.registry().default_name()));
        return grpc::Status::OK;
      });
  methods[prefix + "GetModel"] = UnaryHandlers<v1::GetModelRequest, v1::GetModelResponse>(
      [&engine](const v1::GetModelRequest& request, v1::GetModelResponse& response) {
        const absl::StatusOr<Model*> model =
            engine.registry().Find(request.name(), request.version());
        if (!model.ok()) return ToGrpc(model.status());
        ToProto(**model, engine, *response.mutable_model());
        return grpc::Status::OK;
      });
}

int QueueCount(const GrpcOptions& options) {
  if (options.threads > 0) return options.threads;
  constexpr unsigned kCoresPerThread = 4;
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency() / kCoresPerThread));
}

}  // namespace

class GrpcTransport::Impl {
 public:
  Impl(GrpcOptions options, Engine& engine, boost::asio::io_context& io)
      : options_(options),
        connections_(options_.connection, io),
        health_({PredictionService::service_full_name(), kHealthService, kReflectionService}) {
    AddPrediction(options_, engine, methods_);
    health_.AddTo(methods_);
    AddReflection({PredictionService::service_full_name(), kHealthService, kReflectionService},
                  methods_);
  }

  absl::Status Start() {
    // Shutting gRPC down with the last of its objects waits for its poller, up to ten seconds.  So
    // it never is.
    static std::once_flag once;
    std::call_once(once, grpc_init);

    grpc::ServerBuilder builder;
    acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        grpc::InsecureServerCredentials());
    builder.RegisterAsyncGenericService(&service_);
    Limit(builder);
    for (int i = 0; i < QueueCount(options_); ++i) {
      queues_.push_back(
          std::make_unique<RpcQueue>(builder.AddCompletionQueue(), service_, methods_,
                                     RpcLimits{connections_, options_.max_metadata_bytes}));
    }
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC did not start");
    for (const auto& queue : queues_) queue->Start();
    health_.SetServing(true);
    return absl::OkStatus();
  }

  void Serve(Connection connection) {
    const absl::Status watched = connections_.Add(
        connection.peer, connection.socket.native_handle(), std::move(connection.place));
    if (!watched.ok()) {
      spdlog::warn("closed a connection from {}: {}", connection.peer,
                   std::string(watched.message()));
      return;
    }
    grpc::experimental::ExternalConnectionAcceptor::NewConnectionParameters parameters;
    parameters.listener_fd = -1;
    parameters.fd = connection.socket.release();
    const grpc::Slice first_bytes(connection.first_bytes);
    parameters.read_buffer = grpc::ByteBuffer(&first_bytes, 1);
    acceptor_->HandleNewConnection(&parameters);
  }

  void StopServing() { health_.SetServing(false); }

  void Stop(absl::Duration timeout) {
    if (server_ == nullptr) return;
    health_.EndWatches();
    connections_.WaitUntilEmpty(timeout);
    server_->Shutdown(absl::ToChronoTime(absl::Now()));
    queues_.clear();
  }

 private:
  void Limit(grpc::ServerBuilder& builder) const {
    const int max_message = static_cast<int>(options_.max_unary_bytes + kMaxHeaderBytes);
    builder.SetMaxReceiveMessageSize(max_message);
    builder.SetMaxSendMessageSize(max_message);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS,
                               options_.connection.max_calls * kAdvertisedFactor);
    builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE,
                               static_cast<int>(options_.max_metadata_bytes) * kAdvertisedFactor);

    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, kMaxFrameSize);

    // No keepalive of gRPC's: with it, it would measure the connection's bandwidth again and again,
    // and let its window, and the memory that it holds for a stream, grow with every busy moment.
    // TCP finds dead peers (acceptor.cc).
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);

    // gRPC 1.51 inflates a message before it looks at its size, so it inflates none and takes none.
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_DEFLATE, false);
    builder.SetCompressionAlgorithmSupportStatus(GRPC_COMPRESS_GZIP, false);
    builder.AddChannelArgument(GRPC_ARG_ENABLE_PER_MESSAGE_DECOMPRESSION, 0);

    grpc::ResourceQuota quota("millrace");
    quota.Resize(options_.memory_limit);
    builder.SetResourceQuota(quota);
  }

  const GrpcOptions options_;
  GrpcConnections connections_;
  Health health_;
  RpcMethods methods_;
  grpc::AsyncGenericService service_;
  std::vector<std::unique_ptr<RpcQueue>> queues_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
};

GrpcTransport::GrpcTransport(GrpcOptions options, Engine& engine, boost::asio::io_context& io)
    : impl_(std::make_unique<Impl>(options, engine, io)) {}

GrpcTransport::~GrpcTransport() { Stop(absl::ZeroDuration()); }

absl::Status GrpcTransport::Start() { return impl_->Start(); }

void GrpcTransport::Serve(Connection connection) { impl_->Serve(std::move(connection)); }

void GrpcTransport::StopServing() { impl_->StopServing(); }

void GrpcTransport::Stop(absl::Duration timeout) { impl_->Stop(timeout); }

}  // namespace millrace
