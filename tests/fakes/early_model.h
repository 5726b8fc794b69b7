// A model that works on requests while they arrive, and remembers what it was shown.
#pragma once

#include <absl/types/span.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "server/core/model.h"
#include "server/core/mutex.h"

namespace millrace {

// Takes one float32 tensor "x" of any rows, and answers with nothing.  Thread-safe.
class EarlyModel final : public Model {
 public:
  const ModelSpec& spec() const override { return spec_; }

  absl::Status Run(const Request& request, Outputs&) override {
    return Show(request.inputs[0].bytes);
  }

  std::unique_ptr<EarlyRun> StartEarly(const TensorMeta&, const Parameters&) override {
    return std::make_unique<Recorder>(*this);
  }

  // What OnRows() answers; set before use.  May throw.
  void Then(std::function<absl::Status()> then) { then_ = std::move(then); }

  // From now on OnRows() waits for Release().
  void Hold() { SetHeld(true); }
  void Release() { SetHeld(false); }

  // The calls so far, those that wait included.
  void WaitUntilShown(size_t count) {
    MutexLock lock(mu_);
    while (shown_.size() < count) changed_.Wait(mu_);
  }
  void WaitUntilIdle() {
    MutexLock lock(mu_);
    while (running_ > 0) changed_.Wait(mu_);
  }

  // What each call had.  The bytes are those of the request, and gone when it is.
  std::vector<absl::Span<const std::byte>> shown() const {
    MutexLock lock(mu_);
    return shown_;
  }

  int most_running() const {
    MutexLock lock(mu_);
    return most_running_;
  }

  // Of the objects that worked on requests.
  int destroyed() const {
    MutexLock lock(mu_);
    return destroyed_;
  }

 private:
  class Recorder final : public EarlyRun {
   public:
    explicit Recorder(EarlyModel& model) : model_(model) {}
    ~Recorder() override {
      MutexLock lock(model_.mu_);
      ++model_.destroyed_;
    }

    absl::Status OnRows(absl::Span<const std::byte> rows, Outputs&) override {
      return model_.Show(rows);
    }

   private:
    EarlyModel& model_;
  };

  absl::Status Show(absl::Span<const std::byte> rows) {
    {
      MutexLock lock(mu_);
      shown_.push_back(rows);
      most_running_ = std::max(most_running_, ++running_);
      changed_.NotifyAll();
      while (held_) changed_.Wait(mu_);
      --running_;
      changed_.NotifyAll();
    }
    return then_ ? then_() : absl::OkStatus();
  }

  void SetHeld(bool held) {
    MutexLock lock(mu_);
    held_ = held;
    changed_.NotifyAll();
  }

  const ModelSpec spec_{
      .name = "early",
      .inputs = {{.name = "x", .dtype = DType::kFloat32, .shape = {kAnySize, kAnySize}}}};
  std::function<absl::Status()> then_;
  mutable Mutex mu_;
  CondVar changed_;
  bool held_ ABSL_GUARDED_BY(mu_) = false;
  int running_ ABSL_GUARDED_BY(mu_) = 0;
  int most_running_ ABSL_GUARDED_BY(mu_) = 0;
  int destroyed_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<absl::Span<const std::byte>> shown_ ABSL_GUARDED_BY(mu_);
};

}  // namespace millrace
