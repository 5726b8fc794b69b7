#include "server/transports/grpc/rpc.h"

#include <absl/strings/str_cat.h>
#include <absl/time/clock.h>
#include <pthread.h>
#include <time.h>

#include <utility>

#include "server/core/errors.h"
#include "server/core/status_macros.h"
#include "server/transports/grpc/grpc_status.h"

namespace millrace {
namespace {

// Calls that may come at once before the queue's thread has taken up the first of them.
constexpr int kAccepting = 16;

// How long a queue's thread may be busy with one thing before the second steps in, and how long
// that stays before it looks again.
constexpr absl::Duration kWatchPeriod = absl::Milliseconds(20);

absl::Status CheckMetadata(const grpc::GenericServerContext& context, uint64_t limit) {
  uint64_t size = 0;
  for (const auto& [key, value] : context.client_metadata()) size += key.size() + value.size();
  if (size <= limit) return absl::OkStatus();
  return TooLargeError(
      absl::StrCat("the call's metadata has ", size, " bytes; at most ", limit, " are allowed"));
}

}  // namespace

void* Rpc::Begin(Operation& operation) {
  operation.rpc = shared_from_this();
  return &operation;
}

void Rpc::Read() {
  incoming_.Clear();
  MutexLock lock(mu_);
  if (!finished_) stream_.Read(&incoming_, Begin(read_));
}

void Rpc::Write(grpc::ByteBuffer message) {
  MutexLock lock(mu_);
  if (!finished_) stream_.Write(message, Begin(write_));
}

void Rpc::Finish(const grpc::Status& status) {
  FinishLocked([&](void* tag) { stream_.Finish(status, tag); });
}

void Rpc::FinishWith(grpc::ByteBuffer message) {
  FinishLocked([&](void* tag) {
    stream_.WriteAndFinish(message, grpc::WriteOptions(), grpc::Status::OK, tag);
  });
}

void Rpc::FinishLocked(absl::FunctionRef<void(void* tag)> finish) {
  MutexLock lock(mu_);
  if (std::exchange(finished_, true)) return;
  finish(Begin(finish_));
}

void Rpc::AddTrailingMetadata(const char* key, const std::string& value) {
  context_.AddTrailingMetadata(key, value);
}

bool Rpc::finished() {
  MutexLock lock(mu_);
  return finished_;
}

absl::Time Rpc::deadline() const { return absl::FromChrono(context_.deadline()); }

void Rpc::CancelUnlessWritten(absl::Duration period) {
  MutexLock lock(mu_);
  period_ = period;
  SetAlarm();
}

void Rpc::SetAlarm() {
  moved_ = false;
  alarm_.Set(queue_.queue_.get(), absl::ToChronoTime(absl::Now() + period_), Begin(alarmed_));
}

// ---- what the queue tells

void Rpc::OnAccepted(bool ok) {
  if (!ok) return over_.rpc.reset();  // The server has been shut down.
  queue_.Accept();
  accepted_ = true;
  if (absl::Status status = Enter(); !status.ok()) return Finish(ToGrpc(status));
  handler_->OnStart();
  if (is_over_) TellIfCancelled();
}

absl::Status Rpc::Enter() {
  const auto method = queue_.methods_.find(context_.method());
  if (method == queue_.methods_.end()) return absl::UnimplementedError("there is no such method");
  const RpcLimits& limits = queue_.limits_;
  RETURN_IF_ERROR(CheckMetadata(context_, limits.max_metadata_bytes));
  ASSIGN_OR_RETURN(place_, limits.connections.Enter(context_.peer()));
  handler_ = method->second(*this);
  return absl::OkStatus();
}

void Rpc::OnRead(bool ok) {
  heard_ |= ok;
  if (ok) {
    handler_->OnMessage(incoming_);
  } else {
    handler_->OnEnd();
  }
}

void Rpc::OnWritten(bool ok) {
  {
    MutexLock lock(mu_);
    moved_ = true;
  }
  handler_->OnWritten(ok);
}

void Rpc::OnFinished(bool) {
  MutexLock lock(mu_);
  sent_ = true;
  alarm_.Cancel();
}

// With two threads, it may come before OnAccepted().
void Rpc::OnOver(bool) {
  is_over_ = true;
  if (accepted_) TellIfCancelled();
}

void Rpc::TellIfCancelled() {
  if (!context_.IsCancelled() || handler_ == nullptr) return;
  if (!heard_) place_.CountEarlyReset();
  handler_->OnCancel();
}

void Rpc::OnAlarm(bool expired) {
  MutexLock lock(mu_);
  if (!expired || sent_) return;
  if (!moved_) return context_.TryCancel();
  SetAlarm();
}

// ---- the queue

RpcQueue::RpcQueue(std::unique_ptr<grpc::ServerCompletionQueue> queue,
                   grpc::AsyncGenericService& service, const RpcMethods& methods, RpcLimits limits)
    : queue_(std::move(queue)), service_(service), methods_(methods), limits_(limits) {}

RpcQueue::~RpcQueue() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  stop_.NotifyAll();
  if (watch_.joinable()) watch_.join();
  queue_->Shutdown();
  if (thread_.joinable()) {
    thread_.join();
  } else {
    Run();
  }
}

void RpcQueue::Start() {
  for (int i = 0; i < kAccepting; ++i) Accept();
  thread_ = std::thread([this] { Run(); });
  watch_ = std::thread([this] { Watch(); });
}

void RpcQueue::Accept() {
  const auto rpc = std::make_shared<Rpc>(*this);
  rpc->context_.AsyncNotifyWhenDone(rpc->Begin(rpc->over_));
  service_.RequestCall(&rpc->context_, &rpc->stream_, queue_.get(), queue_.get(),
                       rpc->Begin(rpc->accept_));
}

void RpcQueue::Run() {
  void* tag = nullptr;
  bool ok = false;
  while (queue_->Next(&tag, &ok)) {
    Handle(tag, ok);
    handled_.fetch_add(1, std::memory_order_relaxed);
  }
}

void RpcQueue::Handle(void* tag, bool ok) {
  auto& operation = *static_cast<Rpc::Operation*>(tag);
  const std::shared_ptr<Rpc> rpc = std::move(operation.rpc);
  MutexLock lock(rpc->event_);
  (rpc.get()->*operation.on_done)(ok);
}

// ---- the second thread

void RpcQueue::Watch() {
  Progress last = Look();
  while (Sleep()) {
    for (Progress now = Look(); now.IsStuckSince(last); now = Look()) {
      last = now;
      Help();
    }
    last = Look();
  }
}

RpcQueue::Progress RpcQueue::Look() {
  clockid_t clock = 0;
  timespec busy = {};
  if (pthread_getcpuclockid(thread_.native_handle(), &clock) == 0) clock_gettime(clock, &busy);
  return {handled_.load(std::memory_order_relaxed), absl::DurationFromTimespec(busy)};
}

bool RpcQueue::Progress::IsStuckSince(const Progress& last) const {
  return handled == last.handled && busy - last.busy > kWatchPeriod / 2;
}

bool RpcQueue::Sleep() {
  MutexLock lock(mu_);
  if (!stopping_) stop_.WaitFor(mu_, kWatchPeriod);
  return !stopping_;
}

void RpcQueue::Help() {
  const absl::Time end = absl::Now() + kWatchPeriod;
  void* tag = nullptr;
  bool ok = false;
  while (absl::Now() < end && queue_->AsyncNext(&tag, &ok, absl::ToChronoTime(end)) ==
                                  grpc::CompletionQueue::GOT_EVENT) {
    Handle(tag, ok);
  }
}

}  // namespace millrace
