// Predicts on an image whose rows get brighter.  Usage: predict 127.0.0.1:8000
#include <millrace/client.h>

#include <iostream>
#include <span>
#include <vector>

namespace {

absl::Status Run(const char* address) {
  std::vector<float> pixels(3000 * 2500);
  for (size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<float>(i / 2500);

  auto client = millrace::Client::Connect(address);
  if (!client.ok()) return client.status();
  const millrace::TensorMeta image = {"image", millrace::DType::kFloat32, {3000, 2500}};
  auto prediction = client->Predict("row_mean_std", {{image, std::as_bytes(std::span(pixels))}});
  if (!prediction.ok()) return prediction.status();

  for (const millrace::OutputTensor& output : prediction->outputs) {
    std::cout << ToString(output.meta);
    if (auto values = output.As<float>(); values.ok() && !values->empty())
      std::cout << " " << values->front();
    std::cout << "\n";
  }
  std::cout << "the server spent, in milliseconds: " << prediction->timing << "\n";
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  millrace::KeepFreedMemory();
  const absl::Status status = Run(argc > 1 ? argv[1] : "127.0.0.1:8000");
  if (!status.ok()) std::cerr << status << "\n";
  return status.ok() ? 0 : 1;
}
