// What the engine itself costs a request, run where it is submitted and handed to another thread.
//
//   cmake --build --preset release -t engine_bench && build/release/bin/engine_bench
#include <benchmark/benchmark.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <utility>

#include "server/core/engine.h"

namespace millrace {
namespace {

class Nothing final : public Model {
 public:
  explicit Nothing(bool quick) : quick_(quick) {}

  const ModelSpec& spec() const override { return spec_; }
  absl::Status Run(const Request&, Outputs&) override { return absl::OkStatus(); }
  bool RunsQuickly(const Request&) const override { return quick_; }

 private:
  const ModelSpec spec_{.name = "nothing", .any_tensors = true};
  const bool quick_;
};

class NoProbe final : public EngineProbe {
 public:
  void OnCallDone(const CallReport&) override {}
};

// From Open() until the callback has returned, for one small tensor.
void BM_Call(benchmark::State& state) {
  Registry registry;
  if (!registry.Add(std::make_unique<Nothing>(state.range(1) != 0)).ok()) std::abort();
  SlabPool pool({});
  NoProbe probe;
  Engine engine({.threads = 1}, pool, registry, probe);
  for (auto _ : state) {
    std::atomic<bool> done = false;
    const auto call = *engine.Open("bench", [&done](const absl::StatusOr<Response>&) {
      done = true;
      done.notify_one();
    });
    Declaration declaration;
    declaration.tensors = {{"x", DType::kUint8, {state.range(0)}}};
    call->Admit(std::move(declaration), [] {});
    Assembler& assembler = call->assembler();
    *assembler.Space()->data() = std::byte{1};
    assembler.Commit(assembler.remaining());
    call->Submit();
    done.wait(false);
  }
}

BENCHMARK(BM_Call)->ArgNames({"bytes", "quick"})->ArgsProduct({{4}, {0, 1}})->UseRealTime();

}  // namespace
}  // namespace millrace
