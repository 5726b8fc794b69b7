// The same float32 tensor as raw bytes, .npy and JSON: all three are read as the same, and written
// back as they were.
#include <absl/strings/str_cat.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "proto/wire/npy.h"
#include "proto/wire/text.h"
#include "server/transports/http/codec.h"

namespace millrace {
namespace {

Tensor Body(const Codec& codec, const std::string& bytes, SlabPool& pool) {
  std::shared_ptr<Slab> slab = pool.Promise(bytes.size() + codec.padding());
  if (!slab->Map().ok()) abort();
  const std::string padded = bytes + std::string(codec.padding(), '\0');
  padded.copy(reinterpret_cast<char*>(slab->data()), padded.size());
  Tensor body;
  body.bytes = absl::MakeConstSpan(slab->data(), bytes.size());
  body.owner = std::move(slab);
  return body;
}

Tensor Read(const Codec& codec, const std::string& bytes, const BodyInfo& info, SlabPool& pool) {
  static boost::asio::thread_pool workers(1);
  auto question = codec.Decode(Body(codec, bytes, pool), info, pool, workers);
  if (!question.ok()) abort();
  Response response;
  response.outputs = {question->tensors.at(0)};
  auto answer = codec.Encode(response, false, pool);
  if (!answer.ok() || answer->body_size() == 0) abort();
  return question->tensors[0];
}

// All NaN are one in JSON.
std::vector<float> Floats(const uint8_t* data, size_t count) {
  std::vector<float> floats(count);
  std::memcpy(floats.data(), data, count * sizeof(float));
  for (float& value : floats) value = std::isnan(value) ? std::nanf("") : value;
  return floats;
}

}  // namespace
}  // namespace millrace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace millrace;
  static SlabPool pool(SlabPoolOptions{.limit = 64 << 20});
  if (size < 4) return 0;
  const std::vector<float> floats = Floats(data, size / 4);
  const TensorView view = {{"", DType::kFloat32, {static_cast<int64_t>(floats.size())}},
                           absl::MakeConstSpan(reinterpret_cast<const std::byte*>(floats.data()),
                                               floats.size() * sizeof(float))};
  const std::string raw(reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size());
  std::string json = "{\"inputs\": ";
  AppendJson(view, json);

  ModelSpec spec;
  spec.inputs = {{.name = "x", .dtype = DType::kFloat32, .shape = {kAnySize}}};
  const Target target = {"/predict", {{"dtype", "float32"}}};
  const BodyInfo info = {spec, target, std::nullopt};
  const std::pair<const Codec*, std::string> forms[] = {
      {&RawCodec(), raw}, {&NpyCodec(), NpyHeader(view.meta) + raw}, {&JsonCodec(), json + "}"}};
  for (const auto& [codec, bytes] : forms) {
    const Tensor tensor = Read(*codec, bytes, info, pool);
    if (tensor.meta != view.meta || tensor.bytes.size() != raw.size()) abort();
    if (std::memcmp(tensor.bytes.data(), raw.data(), raw.size()) != 0) abort();
  }
  return 0;
}
