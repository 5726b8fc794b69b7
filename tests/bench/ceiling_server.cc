// The ceiling: no server can be faster than this.  A thread for each connection receives each image
// into the same warm buffer, runs the model on it after the last byte, and answers with 4 bytes.
//
//   bench-ceiling ADDRESS
#include <sys/socket.h>

#include <cstdio>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "server/core/model.h"
#include "server/models/row_mean_std.h"
#include "tests/bench/ceiling.h"
#include "tests/bench/image.h"
#include "tests/bench/plain_socket.h"

namespace millrace::bench {
namespace {

float RunModel(Model& model, const Request& request) {
  SlabPool pool({});
  Outputs outputs(pool);
  if (!model.Run(request, outputs).ok()) std::abort();
  float answer;
  std::memcpy(&answer, std::move(outputs).Take()[0].bytes.data(), sizeof(answer));
  return answer;
}

// Until the client hangs up.
absl::Status Serve(const internal::Fd& connection) {
  Hello hello;
  absl::Status status = ReceiveAll(connection.get(), BytesOf(hello), sizeof(hello));
  if (!status.ok()) return status;
  const auto model = MakeRowMeanStd();
  std::vector<std::byte> buffer(hello.bytes);
  Request request;
  request.inputs.resize(1);
  request.inputs[0].meta = {"image", DType::kFloat32, ImageShape(hello.bytes)};
  request.inputs[0].bytes = buffer;
  for (;;) {
    status = ReceiveAll(connection.get(), absl::MakeSpan(buffer), hello.read_size);
    if (!status.ok()) return status;
    float answer = RunModel(*model, request);
    status = SendAll(connection.get(), BytesOf(answer));
    if (!status.ok()) return status;
  }
}

int Main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "usage: bench-ceiling ADDRESS\n");
    return 2;
  }
  const absl::StatusOr<internal::Fd> listener = ListenOn(argv[1]);
  if (!listener.ok()) {
    std::fprintf(stderr, "bench-ceiling: %s\n", listener.status().ToString().c_str());
    return 1;
  }
  for (;;) {
    internal::Fd connection(::accept(listener->get(), nullptr, nullptr));
    if (connection.get() < 0) return 1;
    std::thread([c = std::move(connection)] { Serve(c).IgnoreError(); }).detach();
  }
}

}  // namespace
}  // namespace millrace::bench

int main(int argc, char** argv) { return millrace::bench::Main(argc, argv); }
