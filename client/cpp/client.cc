#include <absl/strings/str_cat.h>
#include <grpcpp/client_context.h>
#include <malloc.h>
#include <millrace/client.h>

#include <utility>

#include "client/cpp/grpc_call.h"
#include "client/cpp/http_call.h"
#include "client/cpp/socket.h"
#include "proto/framing/framing.h"
#include "proto/millrace/v1/prediction.grpc.pb.h"

namespace millrace {
namespace internal {
namespace {

// Connections that no call uses.  Thread-safe.
template <typename Connection>
class IdleConnections {
 public:
  // The one that was used last; null if there is none.
  std::unique_ptr<Connection> Take() {
    const std::lock_guard lock(mu_);
    if (idle_.empty()) return nullptr;
    std::unique_ptr<Connection> connection = std::move(idle_.back());
    idle_.pop_back();
    return connection;
  }

  void Give(std::unique_ptr<Connection> connection) {
    const std::lock_guard lock(mu_);
    idle_.push_back(std::move(connection));
  }

  void Clear() {
    std::vector<std::unique_ptr<Connection>> closing;
    const std::lock_guard lock(mu_);
    closing.swap(idle_);
  }

 private:
  std::mutex mu_;
  std::vector<std::unique_ptr<Connection>> idle_;  // under mu_
};

TensorInfo FromProto(const v1::TensorSpec& spec) {
  const bool known = spec.data_type() > 0 && spec.data_type() <= kMaxDType;
  const DType dtype = known ? static_cast<DType>(spec.data_type()) : DType::kUnspecified;
  return {{spec.name(), dtype, Shape(spec.shape().begin(), spec.shape().end())},
          spec.scalar_broadcasts(),
          spec.any_shape()};
}

ModelInfo FromProto(const v1::Model& model) {
  ModelInfo info{model.name(), model.version(), {}, {}, model.any_tensors(), model.ready()};
  for (const v1::TensorSpec& input : model.inputs()) info.inputs.push_back(FromProto(input));
  for (const v1::TensorSpec& output : model.outputs()) info.outputs.push_back(FromProto(output));
  return info;
}

}  // namespace

absl::Status WrongElementType(const TensorMeta& meta) {
  return absl::InvalidArgumentError(
      absl::StrCat("the tensor holds ", Name(meta.dtype), ", not what it is read as"));
}

}  // namespace internal

using internal::GrpcConnection;
using internal::HttpConnection;

class Client::Impl {
 public:
  Impl(internal::Address address, ClientOptions options)
      : address_(std::move(address)), options_(std::move(options)) {}

  // Whether anybody is there.  The first call makes its own connection, of its own kind.
  absl::Status Reach() const {
    return internal::Dial(address_, absl::Now() + options_.connect_timeout).status();
  }

  absl::StatusOr<Prediction> Predict(absl::string_view model, absl::Span<const TensorView> inputs,
                                     const PredictOptions& options) {
    for (const TensorView& input : inputs) {
      const absl::Status status = CheckSize(input);
      if (!status.ok()) return status;
    }
    const absl::Time deadline = absl::Now() + options.timeout;
    absl::StatusOr<Prediction> prediction = PredictBefore(deadline, model, inputs, options);
    // Else it is the server's own time that is up.  gRPC rounds deadlines to milliseconds.
    const bool ours = absl::Now() >= deadline - absl::Milliseconds(2);
    if (absl::IsDeadlineExceeded(prediction.status()) && ours) {
      return absl::DeadlineExceededError(absl::StrCat("no answer within ",
                                                      absl::FormatDuration(options.timeout),
                                                      ", which is the timeout of the call"));
    }
    return prediction;
  }

  template <typename Request, typename Response>
  using Method = grpc::Status (v1::PredictionService::Stub::*)(grpc::ClientContext*, const Request&,
                                                               Response*);

  // A small question with a small answer.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Ask(Method<Request, Response> method, const Request& request) {
    const absl::Time deadline = absl::Now() + options_.connect_timeout;
    const auto ask = [&](GrpcConnection& connection) -> absl::StatusOr<Response> {
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(deadline));
      v1::PredictionService::Stub stub(connection.channel());
      Response response;
      const absl::Status status = internal::ToAbsl((stub.*method)(&context, request, &response));
      if (!status.ok()) return status;
      return response;
    };
    return WithConnection(grpc_, deadline, ask);
  }

 private:
  absl::StatusOr<Prediction> PredictBefore(absl::Time deadline, absl::string_view model,
                                           absl::Span<const TensorView> inputs,
                                           const PredictOptions& options) {
    const auto predict = [&](auto over) {
      return [&, over](auto& connection) {
        return over(connection, model, inputs, options, deadline);
      };
    };
    if (options.way == Way::kHttp) {
      return WithConnection(http_, deadline, predict(internal::PredictOverHttp));
    }
    return WithConnection(grpc_, deadline, predict(internal::PredictOverGrpc));
  }

  static absl::Status CheckSize(const TensorView& input) {
    const absl::StatusOr<uint64_t> size = ByteSize(input.meta.dtype, input.meta.shape);
    if (!size.ok()) return size.status();
    if (*size == input.bytes.size()) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat(ToString(input.meta), " takes ", *size, " bytes, not ", input.bytes.size()));
  }

  static const absl::Status& StatusOf(const absl::Status& result) { return result; }
  template <typename T>
  static const absl::Status& StatusOf(const absl::StatusOr<T>& result) {
    return result.status();
  }

  // What `call` gives on an idle connection.  The server may have closed that one meanwhile; then
  // on a new one.
  template <typename Connection, typename Call>
  auto WithConnection(internal::IdleConnections<Connection>& idle, absl::Time deadline,
                      const Call& call) -> decltype(call(std::declval<Connection&>())) {
    if (std::unique_ptr<Connection> connection = idle.Take()) {
      auto result = Use(idle, std::move(connection), call);
      if (!absl::IsUnavailable(StatusOf(result))) return result;
      idle.Clear();
    }
    absl::StatusOr<std::unique_ptr<Connection>> connection =
        Connection::Open(address_, std::min(deadline, absl::Now() + options_.connect_timeout));
    if (!connection.ok()) return connection.status();
    return Use(idle, *std::move(connection), call);
  }

  template <typename Connection, typename Call>
  static auto Use(internal::IdleConnections<Connection>& idle,
                  std::unique_ptr<Connection> connection, const Call& call) {
    auto result = call(*connection);
    if (connection->usable() && !absl::IsUnavailable(StatusOf(result))) {
      idle.Give(std::move(connection));
    }
    return result;
  }

  // Constant after construction.
  const internal::Address address_;
  const ClientOptions options_;

  // Own locks.
  internal::IdleConnections<GrpcConnection> grpc_;
  internal::IdleConnections<HttpConnection> http_;
};

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

absl::StatusOr<Client> Client::Connect(absl::string_view address, ClientOptions options) {
  absl::StatusOr<internal::Address> parsed = internal::ParseAddress(address);
  if (!parsed.ok()) return parsed.status();
  auto impl = std::make_unique<Impl>(*std::move(parsed), std::move(options));
  const absl::Status status = impl->Reach();
  if (!status.ok()) return status;
  return Client(std::move(impl));
}

absl::StatusOr<Prediction> Client::Predict(absl::string_view model,
                                           absl::Span<const TensorView> inputs,
                                           const PredictOptions& options) const {
  return impl_->Predict(model, inputs, options);
}

absl::StatusOr<std::vector<ModelInfo>> Client::ListModels() const {
  const auto response =
      impl_->Ask(&v1::PredictionService::Stub::ListModels, v1::ListModelsRequest());
  if (!response.ok()) return response.status();
  std::vector<ModelInfo> models;
  for (const v1::Model& model : response->models()) models.push_back(internal::FromProto(model));
  return models;
}

absl::StatusOr<ModelInfo> Client::GetModel(absl::string_view name,
                                           absl::string_view version) const {
  v1::GetModelRequest request;
  request.set_name(std::string(name));
  request.set_version(std::string(version));
  const auto response = impl_->Ask(&v1::PredictionService::Stub::GetModel, request);
  if (!response.ok()) return response.status();
  return internal::FromProto(response->model());
}

void KeepFreedMemory() {
#ifdef M_TRIM_THRESHOLD
  ::mallopt(M_TRIM_THRESHOLD, 2047 << 20);
  ::mallopt(M_MMAP_THRESHOLD, 1 << 30);
#endif
}

}  // namespace millrace
