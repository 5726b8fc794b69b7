// Any text as a JSON request, to a model that names its inputs and to one that takes any.
#include <absl/strings/str_cat.h>

#include <cstdlib>
#include <string>

#include "server/transports/http/json_request.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace millrace;
  static SlabPool pool(SlabPoolOptions{.limit = 64 << 20});
  ModelSpec named;
  named.inputs = {{.name = "x", .dtype = DType::kFloat32, .shape = {kAnySize}},
                  {.name = "y", .dtype = DType::kUint8, .shape = {kAnySize}}};
  ModelSpec any;
  any.any_tensors = true;
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const std::string text = bytes + std::string(JsonPadding(), '\0');
  for (const ModelSpec* spec : {&named, &any}) {
    const auto request = ReadJsonRequest(absl::string_view(text).substr(0, size), *spec, pool);
    if (!request.ok()) continue;
    for (const Tensor& tensor : request->tensors) {
      if (ByteSize(tensor.meta.dtype, tensor.meta.shape).value() != tensor.bytes.size()) abort();
    }
  }
  if (pool.usage().promised != 0) abort();
  return 0;
}
