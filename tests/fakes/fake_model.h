// A model that answers when told.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "server/core/model.h"
#include "server/core/mutex.h"

namespace millrace {

// Takes one float32 tensor "x" of any length and gives it back as "y".  Thread-safe.
class FakeModel final : public Model {
 public:
  explicit FakeModel(std::string name = "fake") {
    spec_.name = std::move(name);
    spec_.inputs = {{.name = "x", .dtype = DType::kFloat32, .shape = {kAnySize}}};
    spec_.outputs = {{.name = "y", .dtype = DType::kFloat32, .shape = {kAnySize}}};
  }

  const ModelSpec& spec() const override { return spec_; }

  absl::Status Run(const Request& request, Outputs& outputs) override {
    {
      MutexLock lock(mu_);
      most_running_ = std::max(most_running_, ++running_);
      ++started_;
      last_thread_ = std::this_thread::get_id();
      changed_.NotifyAll();
      while (held_) changed_.Wait(mu_);
      --running_;
      changed_.NotifyAll();
    }
    if (then_) return then_();
    Tensor tensor = request.inputs[0];
    tensor.meta.name = "y";
    outputs.Forward(std::move(tensor));
    return absl::OkStatus();
  }

  bool RunsQuickly(const Request&) const override { return quick_; }

  // Whether requests say from now on that they run quickly.
  void SetQuick(bool quick) { quick_ = quick; }

  int Concurrency() const override { return concurrency_; }
  bool ready() const override { return ready_; }

  // Set before use.
  void SetConcurrency(int concurrency) { concurrency_ = concurrency; }

  void SetReady(bool ready) { ready_ = ready; }

  // Instead of the answer; set before use.
  void Then(std::function<absl::Status()> then) { then_ = std::move(then); }

  // From now on Run() waits for Release().
  void Hold() { SetHeld(true); }
  void Release() { SetHeld(false); }

  void WaitUntilStarted(int count) {
    MutexLock lock(mu_);
    while (started_ < count) changed_.Wait(mu_);
  }

  void WaitUntilIdle() {
    MutexLock lock(mu_);
    while (running_ > 0) changed_.Wait(mu_);
  }

  int running() {
    MutexLock lock(mu_);
    return running_;
  }

  // The most that ran at once.
  int most_running() {
    MutexLock lock(mu_);
    return most_running_;
  }

  // Where Run() was called last.
  std::thread::id last_thread() {
    MutexLock lock(mu_);
    return last_thread_;
  }

 private:
  void SetHeld(bool held) {
    MutexLock lock(mu_);
    held_ = held;
    changed_.NotifyAll();
  }

  ModelSpec spec_;
  std::function<absl::Status()> then_;
  std::atomic<bool> quick_ = false;
  std::atomic<bool> ready_ = true;
  int concurrency_ = 0;
  Mutex mu_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  int most_running_ ABSL_GUARDED_BY(mu_) = 0;
  int started_ ABSL_GUARDED_BY(mu_) = 0;
  std::thread::id last_thread_ ABSL_GUARDED_BY(mu_);
};

}  // namespace millrace
