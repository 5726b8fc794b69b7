#include "server/core/engine.h"

#include <absl/strings/str_cat.h>

#include <algorithm>
#include <utility>

#include "server/core/errors.h"
#include "server/core/status_macros.h"

namespace millrace {
namespace {

constexpr absl::Duration kKeeperPeriod = absl::Milliseconds(50);

// A model that works on what arrives is told of so many bytes more; and works on so many before
// others have their turn.
constexpr uint64_t kEarlyStep = 2 << 20;
constexpr uint64_t kMostEarly = 4 << 20;

constexpr size_t kMaxTensors = 256;
constexpr size_t kMaxRequestId = 128;
constexpr size_t kMaxParameters = 64;
constexpr size_t kMaxParameterSize = 1024;

absl::Status CheckLimits(const Declaration& declaration) {
  if (declaration.tensors.has_value() && declaration.tensors->size() > kMaxTensors) {
    return absl::InvalidArgumentError(absl::StrCat(declaration.tensors->size(),
                                                   " tensors were declared; at most ", kMaxTensors,
                                                   " are allowed"));
  }
  if (declaration.request_id.size() > kMaxRequestId) {
    return absl::InvalidArgumentError(
        absl::StrCat("a request id of ", declaration.request_id.size(), " bytes; at most ",
                     kMaxRequestId, " are allowed"));
  }
  if (declaration.parameters.size() > kMaxParameters) {
    return absl::InvalidArgumentError(absl::StrCat(
        declaration.parameters.size(), " parameters; at most ", kMaxParameters, " are allowed"));
  }
  for (const auto& [key, value] : declaration.parameters) {
    if (key.size() > kMaxParameterSize || value.size() > kMaxParameterSize) {
      return absl::InvalidArgumentError(absl::StrCat(
          "parameter \"", Printable(key), "\" is longer than ", kMaxParameterSize, " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSize(uint64_t size, uint64_t limit) {
  if (size <= limit) return absl::OkStatus();
  return TooLargeError(absl::StrCat("the request has ", size,
                                    " bytes, but this server takes at most ", limit,
                                    " (--max-request-bytes, --memory-limit)"));
}

// Puts the inputs into the order of the spec's, as models expect them.
void Order(const ModelSpec& spec, std::vector<Tensor>& inputs) {
  if (spec.any_tensors) return;
  for (size_t i = 0; i < spec.inputs.size(); ++i) {
    const auto named = std::find_if(inputs.begin() + i, inputs.end(), [&](const Tensor& tensor) {
      return tensor.meta.name == spec.inputs[i].name;
    });
    std::iter_swap(inputs.begin() + i, named);
  }
}

uint64_t WholeRows(uint64_t bytes, uint64_t row_size) { return bytes / row_size * row_size; }

absl::Duration Between(absl::Time from, absl::Time to) {
  return from == absl::UnixEpoch() || to == absl::UnixEpoch() ? absl::ZeroDuration() : to - from;
}

int Threads(const EngineOptions& options) {
  if (options.threads > 0) return options.threads;
  return std::max(1u, std::thread::hardware_concurrency());
}

EngineOptions Completed(EngineOptions options, const SlabPool& pool) {
  options.threads = Threads(options);
  if (options.max_request_bytes == 0) options.max_request_bytes = pool.limit();
  options.max_request_bytes = std::min(options.max_request_bytes, pool.limit());
  return options;
}

}  // namespace

Call::Call(Engine& engine, absl::string_view way, OnDone on_done)
    : engine_(engine), way_(way), on_done_(std::move(on_done)) {}

Call::~Call() {
  // Whoever changed the state held the call, so that it is settled here.
  if (state_ != State::kDone) engine_.Abandon(*this);
}

void Call::Admit(Declaration declaration, OnAdmitted on_admitted) {
  absl::StatusOr<Plan> plan = MakePlan(declaration);
  if (!plan.ok()) return engine_.Finish(*this, plan.status());
  request_.parameters = std::move(declaration.parameters);
  early_ = StartEarly(*plan);
  engine_.Admit(*this, *std::move(plan), std::move(on_admitted));
}

absl::StatusOr<Call::Plan> Call::MakePlan(Declaration& declaration) const {
  const EngineOptions& options = engine_.options_;
  Plan plan;
  ASSIGN_OR_RETURN(plan.model, engine_.registry_.Find(declaration.model, declaration.version));
  plan.spec = &plan.model->spec();
  RETURN_IF_ERROR(CheckLimits(declaration));
  plan.max_bytes = declaration.max_bytes == 0
                       ? options.max_request_bytes
                       : std::min(declaration.max_bytes, options.max_request_bytes);
  plan.promised_bytes = declaration.initial_bytes;
  if (declaration.tensors.has_value()) {
    RETURN_IF_ERROR(CheckInputs(*plan.spec, *declaration.tensors));
    ASSIGN_OR_RETURN(plan.promised_bytes, Assembler::SlabSize(*declaration.tensors));
  }
  RETURN_IF_ERROR(CheckSize(plan.promised_bytes, plan.max_bytes));
  plan.request_id = std::move(declaration.request_id);
  plan.tensors = std::move(declaration.tensors);
  return plan;
}

std::unique_ptr<Call::Early> Call::StartEarly(const Plan& plan) const {
  if (!plan.tensors.has_value() || plan.tensors->size() != 1) return nullptr;
  if (plan.promised_bytes <= kEarlyStep) return nullptr;
  const TensorMeta& input = plan.tensors->front();
  std::unique_ptr<EarlyRun> run = plan.model->StartEarly(input, request_.parameters);
  if (run == nullptr) return nullptr;
  const uint64_t rows = input.shape.empty() ? 1 : input.shape[0];
  return std::unique_ptr<Early>(
      new Early{std::move(run), Outputs(engine_.pool_), plan.promised_bytes / rows});
}

void Call::BecomeAdmitted(std::unique_ptr<Slab> slab) {
  if (plan_.tensors.has_value()) {
    assembler_.emplace(std::move(slab), *std::move(plan_.tensors));
  } else {
    assembler_.emplace(std::move(slab), plan_.max_bytes);
  }
  if (early_ != nullptr) {
    assembler_->Watch(
        kEarlyStep, [this](absl::Span<const std::byte> bytes) { engine_.OnArrived(*this, bytes); });
  }
  state_ = State::kReceiving;
  times_.admitted = window_start_ = engine_.clock_.Now();
}

void Call::EndUpload() {
  MutexLock lock(engine_.mu_);
  uploaded_ = true;
}

void Call::Submit() {
  absl::StatusOr<std::vector<Tensor>> inputs = assembler_->TakeTensors();
  if (!inputs.ok()) return engine_.Finish(*this, inputs.status());
  request_.inputs = *std::move(inputs);
  Order(spec(), request_.inputs);
  engine_.Submit(shared_from_this());
}

void Call::Submit(std::vector<Tensor> inputs) {
  std::vector<TensorMeta> metas;
  for (const Tensor& input : inputs) metas.push_back(input.meta);
  if (absl::Status status = CheckInputs(spec(), metas); !status.ok()) {
    return engine_.Finish(*this, std::move(status));
  }
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i].meta.name = std::move(metas[i].name);
  request_.inputs = std::move(inputs);
  Order(spec(), request_.inputs);
  engine_.Submit(shared_from_this());
}

void Call::Cancel(absl::Status status) { engine_.Finish(*this, std::move(status)); }

void Call::SetDeadline(absl::Time deadline) {
  MutexLock lock(engine_.mu_);
  deadline_ = std::min(deadline_, deadline);
}

Timing Call::timing() const {
  MutexLock lock(engine_.mu_);
  return times_.Steps();
}

Timing Call::Times::Steps() const {
  return {Between(declared, admitted), Between(admitted, submitted), Between(submitted, started),
          Between(started, ended)};
}

Engine::Engine(EngineOptions options, SlabPool& pool, const Registry& registry, EngineProbe& probe,
               const Clock& clock)
    : options_(Completed(options, pool)),
      pool_(pool),
      registry_(registry),
      probe_(probe),
      clock_(clock),
      shared_(options_.threads) {
  pool_.SetOnRelease([this] {
    if (waiting_count_.load() > 0) keeper_.NotifyOne();
  });
  for (const Model* model : registry_.List()) {
    if (model->Concurrency() > 0)
      lanes_.emplace(model, std::make_unique<Lane>(model->Concurrency()));
  }
  const auto start = [this](Lane& lane) {
    for (int i = 0; i < lane.most; ++i) threads_.emplace_back([this, &lane] { Work(lane); });
  };
  start(shared_);
  for (const auto& [model, lane] : lanes_) start(*lane);
  threads_.emplace_back([this] { Keep(); });
}

Engine::~Engine() {
  Drain(absl::ZeroDuration());
  {
    MutexLock lock(mu_);
    stopping_ = true;
  }
  shared_.work.NotifyAll();
  for (const auto& [model, lane] : lanes_) lane->work.NotifyAll();
  keeper_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

absl::StatusOr<std::shared_ptr<Call>> Engine::Open(absl::string_view way, Call::OnDone on_done) {
  CallPtr call(new Call(*this, way, std::move(on_done)));
  const absl::Time now = clock_.Now();
  call->times_.opened = call->window_start_ = now;
  call->deadline_ = now + options_.request_timeout;
  MutexLock lock(mu_);
  if (draining_) return absl::UnavailableError("the server is shutting down");
  if (open_ >= options_.max_calls) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the server has ", open_, " requests open, which is its limit; try again later"));
  }
  ++open_;
  calls_.insert(call.get());
  return call;
}

void Engine::Admit(Call& call, Call::Plan plan, Call::OnAdmitted on_admitted) {
  std::unique_ptr<Slab> slab;
  if (waiting_count_.load() == 0) slab = pool_.TryPromise(plan.promised_bytes);
  absl::Status refused;
  {
    MutexLock lock(mu_);
    if (call.state_ != Call::State::kOpen) return;
    call.plan_ = std::move(plan);
    call.times_.declared = clock_.Now();
    if (slab != nullptr) {
      call.BecomeAdmitted(std::move(slab));
    } else if (draining_) {
      refused = absl::UnavailableError("the server is shutting down");
    } else if (static_cast<int>(waiting_.size()) >= options_.max_waiting) {
      refused = absl::ResourceExhaustedError(
          absl::StrCat("the server's memory (", pool_.limit(), " bytes) is in use and ",
                       waiting_.size(), " requests wait for it; try again later"));
    } else {
      call.state_ = Call::State::kWaiting;
      call.on_admitted_ = std::move(on_admitted);
      waiting_.push_back(call.shared_from_this());
      ++waiting_count_;
      keeper_.NotifyOne();  // Idle memory may have to be given up.
      return;
    }
  }
  if (!refused.ok()) return Finish(call, std::move(refused));
  std::move(on_admitted)();
}

void Engine::OnArrived(Call& call, absl::Span<const std::byte> bytes) {
  {
    MutexLock lock(mu_);
    if (call.state_ != Call::State::kReceiving) return;
    call.early_->rows = bytes.first(WholeRows(bytes.size(), call.early_->row_size));
    if (!ListArriving(call)) return;
  }
  LaneOf(call.plan_.model).work.NotifyOne();
}

void Engine::Submit(CallPtr call) {
  const bool quick = call->plan_.model->RunsQuickly(call->request_);
  Lane& lane = LaneOf(call->plan_.model);
  bool runs_here = false;
  absl::Status refused;
  {
    MutexLock lock(mu_);
    if (call->state_ != Call::State::kReceiving) return;
    call->times_.submitted = clock_.Now();
    if (call->early_ != nullptr && call->early_->step == Call::Early::Step::kRunning) {
      return BecomeRunning(*call, call->times_.submitted);  // The thread that has it goes on.
    }
    runs_here = quick && lane.turns.empty() && lane.running < lane.most;
    if (runs_here) {
      ++lane.running;
      BecomeRunning(*call, call->times_.submitted);
    } else {
      refused = Enqueue(call);
    }
  }
  if (runs_here) return RunToEnd(*call);
  if (!refused.ok()) return Finish(*call, std::move(refused));
  lane.work.NotifyOne();
}

absl::Status Engine::Enqueue(const CallPtr& call) {
  std::deque<CallPtr>& queue = queues_[call->plan_.model];
  if (static_cast<int>(queue.size()) >= options_.max_queued) {
    return absl::ResourceExhaustedError(
        absl::StrCat(queue.size(), " requests are queued for model \"", call->spec().name,
                     "\", which is the limit; try again later"));
  }
  call->state_ = Call::State::kQueued;
  if (queue.empty()) LaneOf(call->plan_.model).turns.push_back(call->plan_.model);
  queue.push_back(call);
  return absl::OkStatus();
}

Engine::Lane& Engine::LaneOf(const Model* model) {
  const auto own = lanes_.find(model);
  return own == lanes_.end() ? shared_ : *own->second;
}

void Engine::Work(Lane& lane) {
  while (true) {
    CallPtr call;
    bool complete = false;
    absl::Span<const std::byte> rows;
    {
      MutexLock lock(mu_);
      while (!lane.HasWork() && !stopping_) lane.work.Wait(mu_);
      if (!lane.HasWork()) return;
      complete = !lane.turns.empty();
      if (complete) {
        call = PopQueued(lane);
      } else {
        rows = PopArriving(lane, call);
      }
    }
    if (complete) RunToEnd(*call);
    if (!rows.empty()) RunEarly(*call, rows);
  }
}

Engine::CallPtr Engine::PopQueued(Lane& lane) {
  const Model* const model = lane.turns.front();
  lane.turns.pop_front();
  std::deque<CallPtr>& queue = queues_[model];
  CallPtr call = std::move(queue.front());
  queue.pop_front();
  if (!queue.empty()) lane.turns.push_back(model);
  ++lane.running;
  BecomeRunning(*call, clock_.Now());
  return call;
}

void Engine::BecomeRunning(Call& call, absl::Time now) {
  call.state_ = Call::State::kRunning;
  call.times_.started = now;
}

bool Engine::ListArriving(Call& call) {
  Call::Early& early = *call.early_;
  if (early.step != Call::Early::Step::kIdle || early.shown == early.rows.size()) return false;
  early.step = Call::Early::Step::kListed;
  LaneOf(call.plan_.model).arriving.push_back(call.weak_from_this());
  return true;
}

absl::Span<const std::byte> Engine::PopArriving(Lane& lane, CallPtr& call) {
  call = lane.arriving.front().lock();
  lane.arriving.pop_front();
  if (call == nullptr || call->state_ != Call::State::kReceiving) return {};
  Call::Early& early = *call->early_;
  early.step = Call::Early::Step::kRunning;
  ++lane.running;
  const uint64_t most = std::max(early.row_size, WholeRows(kMostEarly, early.row_size));
  early.shown = std::min(early.rows.size(), early.shown + most);
  return early.rows.first(early.shown);
}

void Engine::RunEarly(Call& call, absl::Span<const std::byte> rows) {
  Call::Early& early = *call.early_;
  absl::Status status = Try(call, [&] { return early.run->OnRows(rows, early.outputs); });
  bool submitted = false;
  {
    MutexLock lock(mu_);
    submitted = call.state_ == Call::State::kRunning;
    if (!submitted || !status.ok()) --LaneOf(call.plan_.model).running;
    if (call.state_ == Call::State::kReceiving && status.ok()) {
      early.step = Call::Early::Step::kIdle;
      ListArriving(call);
    }
  }
  if (!status.ok()) return Finish(call, std::move(status));
  if (submitted) RunToEnd(call);
}

void Engine::RunToEnd(Call& call) {
  absl::StatusOr<Response> response = Run(call);
  Lane& lane = LaneOf(call.plan_.model);
  bool more = false;
  {
    MutexLock lock(mu_);
    --lane.running;
    more = lane.HasWork();
  }
  if (more) lane.work.NotifyOne();
  Finish(call, std::move(response));
}

absl::StatusOr<Response> Engine::Run(Call& call) {
  const Request request = std::move(call.request_);
  const std::unique_ptr<Call::Early> early = std::move(call.early_);
  Outputs outputs = early != nullptr ? std::move(early->outputs) : Outputs(pool_);
  RETURN_IF_ERROR(Try(call, [&] {
    return early != nullptr ? early->run->OnRows(request.inputs[0].bytes, outputs)
                            : call.plan_.model->Run(request, outputs);
  }));
  return Response{call.spec().name, call.spec().version, call.plan_.request_id,
                  std::move(outputs).Take()};
}

absl::Status Engine::Try(const Call& call, absl::FunctionRef<absl::Status()> step) {
  try {
    return step();
  } catch (...) {
    return absl::InternalError(absl::StrCat("model \"", call.spec().name, "\" failed"));
  }
}

void Engine::Finish(Call& call, absl::StatusOr<Response> result) {
  Call::OnDone on_done;
  Call::OnAdmitted on_admitted;
  CallPtr unqueued;
  Timing timing;
  {
    MutexLock lock(mu_);
    if (call.state_ == Call::State::kDone) return;
    unqueued = Unqueue(call);
    call.state_ = Call::State::kDone;
    call.times_.ended = clock_.Now();
    timing = call.times_.Steps();
    on_done = std::move(call.on_done_);
    on_admitted = std::move(call.on_admitted_);
    calls_.erase(&call);
  }
  const ModelSpec* const spec = call.plan_.model == nullptr ? nullptr : &call.spec();
  probe_.OnCallDone(
      {.way = call.way_,
       .model = spec == nullptr ? "" : spec->name,
       .version = spec == nullptr ? "" : spec->version,
       .request_id = call.plan_.request_id,
       .bytes_received = call.assembler_.has_value() ? call.assembler_->received() : 0,
       .status = result.status(),
       .timing = timing});
  std::move(on_done)(std::move(result));
  MutexLock lock(mu_);
  --open_;
  drained_.NotifyAll();
}

Engine::CallPtr Engine::Unqueue(Call& call) {
  std::deque<CallPtr>* queue = nullptr;
  if (call.state_ == Call::State::kWaiting) queue = &waiting_;
  if (call.state_ == Call::State::kQueued) queue = &queues_[call.plan_.model];
  if (queue == nullptr) return nullptr;
  const auto it = std::find_if(queue->begin(), queue->end(),
                               [&](const CallPtr& other) { return other.get() == &call; });
  CallPtr found = std::move(*it);
  queue->erase(it);
  if (call.state_ == Call::State::kWaiting) --waiting_count_;
  if (call.state_ == Call::State::kQueued && queue->empty()) {
    std::deque<const Model*>& turns = LaneOf(call.plan_.model).turns;
    turns.erase(std::find(turns.begin(), turns.end(), call.plan_.model));
  }
  return found;
}

void Engine::Abandon(Call& call) {
  MutexLock lock(mu_);
  if (calls_.erase(&call) == 0) return;  // Open() refused it.
  --open_;
  drained_.NotifyAll();
}

void Engine::StopAdmitting() {
  MutexLock lock(mu_);
  draining_ = true;
}

bool Engine::ready() const {
  MutexLock lock(mu_);
  return !draining_;
}

int Engine::concurrency() const {
  int most = lanes_.size() < registry_.List().size() ? shared_.most : 0;
  for (const auto& [model, lane] : lanes_) most += lane->most;
  return most;
}

int Engine::open_calls() const {
  MutexLock lock(mu_);
  return open_;
}

void Engine::Drain(absl::Duration timeout) {
  StopAdmitting();
  const absl::Status status = absl::UnavailableError("the server is shutting down");
  EndWhere(
      [](const Call& call) {
        return call.state_ == Call::State::kOpen || call.state_ == Call::State::kWaiting;
      },
      status);
  const absl::Time deadline = clock_.Now() + timeout;
  {
    MutexLock lock(mu_);
    while (open_ > 0 && clock_.Now() < deadline) drained_.WaitFor(mu_, kKeeperPeriod);
  }
  EndWhere([](const Call&) { return true; }, status);
  MutexLock lock(mu_);
  while (open_ > 0) drained_.Wait(mu_);
}

void Engine::EndWhere(absl::FunctionRef<bool(const Call&)> which, const absl::Status& status) {
  std::vector<CallPtr> calls;
  {
    MutexLock lock(mu_);
    for (Call* call : calls_) {
      if (!which(*call)) continue;
      if (CallPtr alive = call->weak_from_this().lock()) calls.push_back(std::move(alive));
    }
  }
  for (const CallPtr& call : calls) Finish(*call, status);
}

void Engine::Keep() {
  while (true) {
    {
      MutexLock lock(mu_);
      if (stopping_) return;
      keeper_.WaitFor(mu_, kKeeperPeriod);
    }
    EndOverdue();
    AdmitWaiting();
    pool_.Trim();
  }
}

void Engine::EndOverdue() {
  std::vector<std::pair<CallPtr, absl::Status>> overdue;
  const absl::Time now = clock_.Now();
  {
    MutexLock lock(mu_);
    for (Call* call : calls_) {
      absl::Status status = Overdue(*call, now);
      if (status.ok()) continue;
      if (CallPtr alive = call->weak_from_this().lock())
        overdue.emplace_back(std::move(alive), std::move(status));
    }
  }
  for (auto& [call, status] : overdue) Finish(*call, std::move(status));
}

absl::Status Engine::Overdue(Call& call, absl::Time now) {
  if (now >= call.deadline_)
    return absl::DeadlineExceededError("the request's deadline has passed");
  if (call.state_ == Call::State::kWaiting &&
      now >= call.times_.declared + options_.admission_timeout) {
    return absl::ResourceExhaustedError(
        absl::StrCat("waited ", absl::FormatDuration(options_.admission_timeout), " for ",
                     call.plan_.promised_bytes, " bytes of the server's memory (", pool_.limit(),
                     " bytes); try again later"));
  }
  const bool sending = call.state_ == Call::State::kOpen ||
                       (call.state_ == Call::State::kReceiving && !call.uploaded_);
  if (!sending || now < call.window_start_ + options_.stall_timeout) return absl::OkStatus();
  if (call.state_ == Call::State::kOpen) {
    return absl::DeadlineExceededError(
        absl::StrCat("no request header came in ", absl::FormatDuration(options_.stall_timeout)));
  }
  const uint64_t received = call.assembler_->received() - call.window_received_;
  const auto least = static_cast<uint64_t>(absl::ToDoubleSeconds(options_.stall_timeout) *
                                           static_cast<double>(options_.min_bytes_per_second));
  if (received < least) {
    return absl::DeadlineExceededError(absl::StrCat("the client sent ", received, " bytes in ",
                                                    absl::FormatDuration(options_.stall_timeout),
                                                    "; at least ", least, " are expected"));
  }
  call.window_start_ = now;
  call.window_received_ += received;
  return absl::OkStatus();
}

void Engine::AdmitWaiting() {
  while (true) {
    CallPtr call;
    {
      MutexLock lock(mu_);
      if (waiting_.empty()) return;
      call = waiting_.front();
    }
    std::unique_ptr<Slab> slab = pool_.Promise(call->plan_.promised_bytes);
    if (slab == nullptr) return;
    Call::OnAdmitted on_admitted;
    {
      MutexLock lock(mu_);
      if (call->state_ != Call::State::kWaiting) continue;
      Unqueue(*call);
      call->BecomeAdmitted(std::move(slab));
      on_admitted = std::move(call->on_admitted_);
    }
    std::move(on_admitted)();
  }
}

}  // namespace millrace
