#include "server/transports/grpc/grpc_transport.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <grpc/grpc.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>
#include <spdlog/spdlog.h>

#include <mutex>
#include <utility>

#include "proto/framing/framing.h"
#include "proto/millrace/v1/prediction.grpc.pb.h"
#include "server/transports/grpc/heartbeat.h"
#include "server/transports/grpc/predict_reactors.h"

namespace millrace {
namespace {

using v1::PredictionService;

// What a message may hold beside its payload: the header.
constexpr uint64_t kMaxHeaderBytes = 1 << 20;

// gRPC's own limits lie above ours, because it closes the whole connection of a client that exceeds
// them.
constexpr int kAdvertisedFactor = 4;

void ToProto(const TensorSpec& spec, v1::TensorSpec& out) {
  out.set_name(spec.name);
  out.set_data_type(static_cast<v1::DataType>(spec.dtype));
  out.mutable_shape()->Assign(spec.shape.begin(), spec.shape.end());
  out.set_scalar_broadcasts(spec.scalar_broadcasts);
}

void ToProto(const ModelSpec& spec, bool ready, v1::Model& out) {
  out.set_name(spec.name);
  out.set_version(spec.version);
  for (const TensorSpec& input : spec.inputs) ToProto(input, *out.add_inputs());
  for (const TensorSpec& output : spec.outputs) ToProto(output, *out.add_outputs());
  out.set_any_tensors(spec.any_tensors);
  out.set_ready(ready);
}

using Service = PredictionService::WithRawCallbackMethod_Predict<
    PredictionService::WithRawCallbackMethod_PredictStream<
        PredictionService::WithRawCallbackMethod_PredictDuplex<
            PredictionService::WithCallbackMethod_ListModels<
                PredictionService::WithCallbackMethod_GetModel<PredictionService::Service>>>>>;

class PredictionServiceImpl final : public Service {
 public:
  explicit PredictionServiceImpl(GrpcServices services) : services_(services) {}

  grpc::ServerUnaryReactor* Predict(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override {
    return StartPredict(services_, context, request, response);
  }

  grpc::ServerReadReactor<grpc::ByteBuffer>* PredictStream(grpc::CallbackServerContext* context,
                                                           grpc::ByteBuffer* response) override {
    return StartPredictStream(services_, context, response);
  }

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* PredictDuplex(
      grpc::CallbackServerContext* context) override {
    return StartPredictDuplex(services_, context);
  }

  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    const Engine& engine = services_.engine;
    for (const ModelSpec* spec : engine.registry().List())
      ToProto(*spec, engine.ready(), *response->add_models());
    response->set_default_model(std::string(engine.registry().default_name()));
    return Finished(context, grpc::Status::OK);
  }

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* context,
                                     const v1::GetModelRequest* request,
                                     v1::GetModelResponse* response) override {
    const Engine& engine = services_.engine;
    const absl::StatusOr<Model*> model =
        engine.registry().Find(request->name(), request->version());
    if (!model.ok()) {
      return Finished(context,
                      {grpc::StatusCode::NOT_FOUND, std::string(model.status().message())});
    }
    ToProto((*model)->spec(), engine.ready(), *response->mutable_model());
    return Finished(context, grpc::Status::OK);
  }

 private:
  static grpc::ServerUnaryReactor* Finished(grpc::CallbackServerContext* context,
                                            const grpc::Status& status) {
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    reactor->Finish(status);
    return reactor;
  }

  const GrpcServices services_;
};

}  // namespace

class GrpcTransport::Impl {
 public:
  Impl(GrpcOptions options, Engine& engine, boost::asio::io_context& io)
      : options_(options),
        connections_(options_.connection, io),
        service_({options_, engine, connections_}) {}

  absl::Status Start() {
    // Shutting gRPC down with the last of its objects waits for its poller, up to ten seconds.  So
    // it never is.
    static std::once_flag once;
    std::call_once(once, grpc_init);

    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
    grpc::ServerBuilder builder;
    acceptor_ = builder.experimental().AddExternalConnectionAcceptor(
        grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD,
        grpc::InsecureServerCredentials());
    builder.RegisterService(&service_);
    Limit(builder);
    server_ = builder.BuildAndStart();
    if (server_ == nullptr) return absl::InternalError("gRPC did not start");
    SetHealth(true);
    heartbeat_ = std::make_unique<Heartbeat>(*server_);
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

  void StopServing() { SetHealth(false); }

  void Stop(absl::Duration timeout) {
    heartbeat_.reset();
    if (server_ == nullptr) return;
    connections_.WaitUntilEmpty(timeout);
    server_->Shutdown(absl::ToChronoTime(absl::Now()));  // Health watchers would stay for ever.
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

  void SetHealth(bool serving) {
    grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
    health->SetServingStatus(serving);
    health->SetServingStatus(PredictionService::service_full_name(), serving);
  }

  const GrpcOptions options_;
  GrpcConnections connections_;
  PredictionServiceImpl service_;
  std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor> acceptor_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<Heartbeat> heartbeat_;
};

GrpcTransport::GrpcTransport(GrpcOptions options, Engine& engine, boost::asio::io_context& io)
    : impl_(std::make_unique<Impl>(options, engine, io)) {}

GrpcTransport::~GrpcTransport() { Stop(absl::ZeroDuration()); }

absl::Status GrpcTransport::Start() { return impl_->Start(); }

void GrpcTransport::Serve(Connection connection) { impl_->Serve(std::move(connection)); }

void GrpcTransport::StopServing() { impl_->StopServing(); }

void GrpcTransport::Stop(absl::Duration timeout) { impl_->Stop(timeout); }

}  // namespace millrace
