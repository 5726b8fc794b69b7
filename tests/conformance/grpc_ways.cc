#include "tests/conformance/grpc_ways.h"

#include <grpcpp/grpcpp.h>

#include "proto/framing/framing.h"
#include "proto/millrace/v1/prediction.grpc.pb.h"

namespace millrace {
namespace {

absl::Status ToAbsl(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

v1::RequestHeader HeaderOf(const Question& question) {
  v1::RequestHeader header;
  header.set_model(question.model);
  for (const NamedBytes& tensor : question.tensors) ToProto(tensor.meta, *header.add_tensors());
  return header;
}

std::string PayloadOf(const Question& question) {
  std::string payload;
  for (const NamedBytes& tensor : question.tensors) payload += tensor.bytes;
  return payload;
}

absl::StatusOr<Answer> ToAnswer(const v1::ResponseHeader& header, const std::string& payload) {
  Answer answer;
  size_t begin = 0;
  const std::vector<TensorMeta> metas = FromProto(header.tensors()).value();
  for (const TensorMeta& meta : metas) {
    const size_t size = ByteSize(meta.dtype, meta.shape).value();
    answer.outputs.push_back({meta, payload.substr(begin, size)});
    begin += size;
  }
  if (begin != payload.size())
    return absl::InternalError("the answer's payload has not the size that its header says");
  return answer;
}

// A stub, and a context with a deadline, for one call.
struct Client {
  explicit Client(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetMaxReceiveMessageSize(-1);
    stub = v1::PredictionService::NewStub(
        grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments));
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(60));
  }

  std::unique_ptr<v1::PredictionService::Stub> stub;
  grpc::ClientContext context;
};

// Sends a header and pieces of `piece` bytes (0: all at once) until the server has had enough.
template <typename Message, typename Stream>
void Send(Stream& stream, const Question& question, size_t piece) {
  Message message;
  *message.mutable_header() = HeaderOf(question);
  bool open = stream.Write(message);
  const std::string payload = PayloadOf(question);
  if (piece == 0) piece = std::max<size_t>(1, payload.size());
  for (size_t begin = 0; open && begin < payload.size(); begin += piece) {
    message.set_payload(payload.substr(begin, piece));
    open = stream.Write(message);
  }
  stream.WritesDone();
}

}  // namespace

absl::StatusOr<Answer> AskUnary(const std::string& address, const Question& question) {
  Client client(address);
  v1::PredictRequest request;
  *request.mutable_header() = HeaderOf(question);
  request.set_payload(PayloadOf(question));
  v1::PredictResponse response;
  const grpc::Status status = client.stub->Predict(&client.context, request, &response);
  if (!status.ok()) return ToAbsl(status);
  return ToAnswer(response.header(), response.payload());
}

absl::StatusOr<Answer> AskStream(const std::string& address, const Question& question,
                                 size_t piece) {
  Client client(address);
  v1::PredictStreamResponse response;
  const auto stream = client.stub->PredictStream(&client.context, &response);
  Send<v1::PredictStreamRequest>(*stream, question, piece);
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return ToAbsl(status);
  return ToAnswer(response.header(), response.payload());
}

absl::StatusOr<Answer> AskDuplex(const std::string& address, const Question& question,
                                 size_t piece) {
  Client client(address);
  const auto stream = client.stub->PredictDuplex(&client.context);
  Send<v1::PredictDuplexRequest>(*stream, question, piece);
  v1::PredictDuplexResponse part;
  v1::ResponseHeader header;
  std::string payload;
  for (bool first = true; stream->Read(&part); first = false) {
    if (first) header = part.header();
    payload += part.payload();
  }
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return ToAbsl(status);
  return ToAnswer(header, payload);
}

}  // namespace millrace
