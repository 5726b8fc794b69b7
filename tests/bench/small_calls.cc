// Many small gRPC calls in flight on one connection: what a server can do when the work of a
// request is next to nothing. To a Millrace server, or to the echo, whose answer looks the same: an
// image of one value, 0, answered by 0.
//
//   bench-small-calls HOST:PORT IN-FLIGHT REQUESTS
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "proto/millrace/v1/prediction.pb.h"
#include "tests/bench/report.h"

namespace millrace::bench {
namespace {

grpc::ByteBuffer MakeRequest() {
  v1::PredictRequest request;
  request.mutable_header()->set_model("row_mean_std");
  v1::Tensor& image = *request.mutable_header()->add_tensors();
  image.set_data_type(v1::DATA_TYPE_FLOAT32);
  image.add_shape(1);
  request.set_payload(std::string(sizeof(float), '\0'));
  const grpc::Slice slice(request.SerializeAsString());
  return {&slice, 1};
}

void Check(const grpc::Status& status, const grpc::ByteBuffer& answer) {
  std::vector<grpc::Slice> slices;
  v1::PredictResponse response;
  std::string bytes;
  if (status.ok() && answer.Dump(&slices).ok()) {
    for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  }
  if (response.ParseFromString(bytes) && response.payload() == std::string(sizeof(float), '\0'))
    return;
  std::fprintf(stderr, "bench-small-calls: a wrong answer %s\n", status.error_message().c_str());
  std::exit(1);
}

// One place of the many in flight: makes a call, and when it has ended, the next.
struct Call {
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer answer;
  grpc::Status status;
  double start = 0;
};

class Caller {
 public:
  Caller(const std::string& address, int in_flight)
      : stub_(grpc::CreateChannel(address, grpc::InsecureChannelCredentials())),
        request_(MakeRequest()),
        calls_(in_flight) {}

  std::vector<double> Run(int requests) {
    std::vector<double> times;
    int left = requests;
    for (Call& call : calls_) {
      if (left-- > 0) Start(call);
    }
    void* tag = nullptr;
    bool ok = false;
    while (static_cast<int>(times.size()) < requests && queue_.Next(&tag, &ok)) {
      Call& call = *static_cast<Call*>(tag);
      Check(call.status, call.answer);
      times.push_back(Now() - call.start);
      if (left-- > 0) Start(call);
    }
    return times;
  }

 private:
  void Start(Call& call) {
    call.start = Now();
    call.context = std::make_unique<grpc::ClientContext>();
    call.answer.Clear();
    call.reader = stub_.PrepareUnaryCall(
        call.context.get(), "/millrace.v1.PredictionService/Predict", request_, &queue_);
    call.reader->StartCall();
    call.reader->Finish(&call.answer, &call.status, &call);
  }

  grpc::GenericStub stub_;
  const grpc::ByteBuffer request_;
  grpc::CompletionQueue queue_;
  std::vector<Call> calls_;
};

int Main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: bench-small-calls HOST:PORT IN-FLIGHT REQUESTS\n");
    return 2;
  }
  const int requests = std::atoi(argv[3]);
  Caller caller(argv[1], std::atoi(argv[2]));
  caller.Run(requests / 10);
  WaitForGo();
  const Meter meter;
  meter.Report(caller.Run(requests));
  return 0;
}

}  // namespace
}  // namespace millrace::bench

int main(int argc, char** argv) { return millrace::bench::Main(argc, argv); }
