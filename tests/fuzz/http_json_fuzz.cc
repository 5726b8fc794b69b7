// Any text as a JSON request, to a model that names its inputs and to one that takes any; read at
// once and in many stretches, which must say the same.
#include <absl/strings/str_cat.h>

#include <cstdlib>
#include <string>

#include "server/transports/http/json_number.h"
#include "server/transports/http/json_request.h"

namespace millrace {
namespace {

std::string Describe(const absl::StatusOr<JsonRequest>& request) {
  if (!request.ok()) return request.status().ToString();
  std::string all;
  for (const Tensor& tensor : request->tensors) {
    if (ByteSize(tensor.meta.dtype, tensor.meta.shape).value() != tensor.bytes.size()) abort();
    absl::StrAppend(&all, ToString(tensor.meta), " ");
    all.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
  }
  return all;
}

}  // namespace
}  // namespace millrace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace millrace;
  static SlabPool pool(SlabPoolOptions{.limit = 64 << 20});
  static boost::asio::thread_pool workers(2);
  ModelSpec named;
  named.inputs = {{.name = "x", .dtype = DType::kFloat32, .shape = {kAnySize}},
                  {.name = "y", .dtype = DType::kUint8, .shape = {kAnySize}}};
  ModelSpec any;
  any.any_tensors = true;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const std::string padded = bytes + std::string(kJsonPadding, '\0');
  const absl::string_view text = absl::string_view(padded).substr(0, size);
  for (const ModelSpec* spec : {&named, &any}) {
    const std::string whole = Describe(ReadJsonRequest(text, *spec, pool, workers));
    const std::string stretches =
        Describe(ReadJsonRequest(text, *spec, pool, workers, {.stretch = 16}));
    if (whole != stretches) abort();
  }
  if (pool.usage().promised != 0) abort();
  return 0;
}
