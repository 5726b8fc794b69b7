#include "server/workers/supervisor.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <absl/strings/str_split.h>
#include <errno.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <utility>

#include "server/core/clock.h"
#include "server/workers/socket.h"

namespace millrace {
namespace {

constexpr absl::Duration kEarly = absl::Seconds(10);
constexpr absl::Duration kFirstBackOff = absl::Milliseconds(100);
constexpr absl::Duration kMostBackOff = absl::Seconds(30);

// Early ends in a row after which a starting worker is no prospect.
constexpr int kHopeless = 3;

// For a worker that was told to exit, and for one whose sockets are closed.
constexpr absl::Duration kExitGrace = absl::Seconds(5);
constexpr absl::Duration kGoneGrace = absl::Seconds(1);

constexpr absl::Duration kReloadPeriod = absl::Milliseconds(500);
constexpr absl::Duration kStartPoll = absl::Milliseconds(50);

constexpr size_t kOutputPiece = 64 << 10;
constexpr int kMaxLastPieces = 64;

constexpr char kClosed[] = "was ended because it closed its connection";
constexpr char kStopped[] = "was ended with the server";

absl::Duration BackOff(int early_ends) {
  if (early_ends <= 1) return absl::ZeroDuration();
  return std::min(kMostBackOff, kFirstBackOff * (1 << std::min(early_ends - 2, 20)));
}

// Equal for specs that take and give the same.
std::string Fingerprint(const ModelSpec& spec) {
  const auto append = [](std::string* out, const TensorSpec& tensor) {
    absl::StrAppend(out, ToString(tensor));
  };
  return absl::StrCat(spec.any_tensors, "|", absl::StrJoin(spec.inputs, ",", append), "|",
                      absl::StrJoin(spec.outputs, ",", append));
}

int PollTimeout(absl::Time until) {
  if (until == absl::InfiniteFuture()) return -1;
  const absl::Duration left = std::max(until - RealClock().Now(), absl::ZeroDuration());
  return static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(left) + 1, 1'000'000));
}

}  // namespace

Supervisor::Supervisor(std::string name, std::vector<std::string> command, WorkerOptions options)
    : name_(std::move(name)),
      command_(std::move(command)),
      options_(std::move(options)),
      wake_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

Supervisor::~Supervisor() { Stop(absl::ZeroDuration()); }

absl::Status Supervisor::Start(absl::FunctionRef<bool()> interrupted) {
  {
    MutexLock lock(mu_);
    seats_.assign(options_.workers, Seat{.start_at = absl::InfinitePast()});
  }
  thread_ = std::thread([this] { Supervise(); });
  std::string failed;
  {
    MutexLock lock(mu_);
    while (!started_ && failed_.empty() && !interrupted()) changed_.WaitFor(mu_, kStartPoll);
    if (started_) return absl::OkStatus();
    failed = failed_;
  }
  Stop(absl::ZeroDuration());
  if (failed.empty()) return absl::CancelledError("stopped while the workers were starting");
  return absl::InvalidArgumentError(absl::StrCat(name_, ": ", failed));
}

void Supervisor::Stop(absl::Duration grace) {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    grace_ = grace;
    changed_.NotifyAll();
  }
  Wake();
  if (thread_.joinable()) thread_.join();
}

// ---- any thread

absl::StatusOr<Supervisor::Lease> Supervisor::Acquire(absl::Time deadline) {
  MutexLock lock(mu_);
  while (true) {
    if (stopping_) return absl::UnavailableError("the server is shutting down");
    if (Member* const member = LeastBusy()) {
      const int slot = member->free_slots.back();
      member->free_slots.pop_back();
      return Lease{member->worker, slot};
    }
    if (!HasProspect()) {
      return absl::UnavailableError(
          absl::StrCat("model \"", name_, "\" has no worker: ", last_end_, "; try again later"));
    }
    const absl::Duration left = deadline - RealClock().Now();
    if (left <= absl::ZeroDuration()) {
      return absl::UnavailableError(
          absl::StrCat("no worker of model \"", name_, "\" became free; try again later"));
    }
    changed_.WaitFor(mu_, left);
  }
}

void Supervisor::Release(Lease lease) {
  MutexLock lock(mu_);
  Member* const member = Find(*lease.worker);
  if (member == nullptr) return;
  member->free_slots.push_back(lease.slot);
  member->answered = true;
  seats_[lease.worker->number() - 1].early_ends = 0;
  if (member->state == State::kRetiring) Retire(*member, kExitGrace);
  changed_.NotifyAll();
}

std::string Supervisor::End(Lease lease, absl::string_view why) {
  MutexLock lock(mu_);
  const absl::Time patience = RealClock().Now() + (why.empty() ? kGoneGrace : absl::ZeroDuration());
  while (Member* const member = Find(*lease.worker)) {
    const absl::Duration left = patience - RealClock().Now();
    if (left > absl::ZeroDuration()) {
      changed_.WaitFor(mu_, left);
    } else {
      Kill(*member, why.empty() ? kClosed : why);
      changed_.Wait(mu_);
    }
  }
  return lease.worker->ended;
}

bool Supervisor::ready() const {
  MutexLock lock(mu_);
  return HasProspect();
}

const ModelSpec& Supervisor::spec() const { return *spec_.load(); }

void Supervisor::Forget(uint64_t memory) {
  std::vector<std::shared_ptr<Worker>> workers;
  {
    MutexLock lock(mu_);
    for (const auto& member : members_) workers.push_back(member->worker);
  }
  for (const auto& worker : workers) worker->Forget(memory);
}

Supervisor::Member* Supervisor::Find(const Worker& worker) {
  for (const auto& member : members_) {
    if (member->worker.get() == &worker) return member.get();
  }
  return nullptr;
}

// The first of equals, because it is the likeliest to have mapped the memory.
Supervisor::Member* Supervisor::LeastBusy() {
  Member* found = nullptr;
  for (const auto& member : members_) {
    if (member->state != State::kUp || member->free_slots.empty()) continue;
    if (found == nullptr || member->free_slots.size() > found->free_slots.size())
      found = member.get();
  }
  return found;
}

bool Supervisor::HasProspect() const {
  if (stopping_) return false;
  return std::any_of(members_.begin(), members_.end(),
                     [](const auto& member) { return member->state == State::kUp; }) ||
         std::any_of(seats_.begin(), seats_.end(),
                     [](const Seat& seat) { return seat.early_ends < kHopeless; });
}

void Supervisor::Retire(Member& member, absl::Duration grace) {
  member.state = State::kRetiring;
  if (static_cast<int>(member.free_slots.size()) < member.worker->slots()) return;
  member.worker->CloseControl();
  member.kill_at = RealClock().Now() + grace;
  Wake();
}

void Supervisor::Kill(Member& member, absl::string_view reason) {
  if (member.reason.empty()) member.reason = std::string(reason);
  member.worker->process().Kill();
}

void Supervisor::Wake() { eventfd_write(wake_.get(), 1); }

void Supervisor::Log(spdlog::level::level_enum level, const Member& member,
                     absl::string_view text) {
  log_.Add(level, absl::StrCat(name_, " worker ", member.worker->number(), text));
}

// ---- the supervising thread

void Supervisor::Supervise() {
  while (true) {
    StartDue();
    WaitForEvents();
    BuryDead();
    KillOverdue();
    if (options_.reload) ReloadIfChanged();
    MutexLock lock(mu_);
    if (!stopping_) continue;
    if (members_.empty()) return;
    RetireAll();
  }
}

absl::Time Supervisor::NextTimer() const {
  MutexLock lock(mu_);
  absl::Time next = options_.reload ? look_at_files_ : absl::InfiniteFuture();
  for (const auto& member : members_) next = std::min(next, member->kill_at);
  if (stopping_) return next;
  for (const Seat& seat : seats_) next = std::min(next, seat.start_at);
  return next;
}

// Waits, and hears what was printed and said.
void Supervisor::WaitForEvents() {
  std::vector<pollfd> fds = {{wake_.get(), POLLIN, 0}};
  for (const auto& member : members_) {
    fds.push_back({member->prints ? member->worker->output() : -1, POLLIN, 0});
    fds.push_back({member->speaks ? member->worker->control() : -1, POLLIN, 0});
    fds.push_back({member->worker->process().pidfd(), POLLIN, 0});
  }
  poll(fds.data(), fds.size(), PollTimeout(NextTimer()));
  eventfd_t ignored;
  eventfd_read(wake_.get(), &ignored);
  for (size_t i = 0; i < members_.size(); ++i) {
    if (fds[1 + 3 * i].revents != 0) ReadOutput(*members_[i]);
    if (fds[2 + 3 * i].revents != 0) ReadControl(*members_[i]);
  }
}

void Supervisor::StartDue() {
  const absl::Time now = RealClock().Now();
  for (int number = 1; number <= options_.workers; ++number) {
    {
      MutexLock lock(mu_);
      Seat& seat = seats_[number - 1];
      if (stopping_ || seat.start_at > now) continue;
      seat.start_at = absl::InfiniteFuture();
    }
    StartWorker(number);
  }
}

void Supervisor::StartWorker(int number) {
  const int64_t files_now = FileClock();
  absl::StatusOr<std::shared_ptr<Worker>> worker =
      Worker::Start(command_, number, options_.threads);
  MutexLock lock(mu_);
  if (worker.ok()) {
    members_.push_back(std::make_unique<Member>(Member{.worker = *std::move(worker),
                                                       .generation = next_generation_,
                                                       .started = RealClock().Now(),
                                                       .started_by_files = files_now}));
    return;
  }
  last_end_ = std::string(worker.status().message());
  if (!started_ && failed_.empty()) failed_ = last_end_;
  const std::string next = SeatAnother(seats_[number - 1], true);
  log_.Add(spdlog::level::err, absl::StrCat(name_, " worker ", number, ": ", last_end_, next));
  changed_.NotifyAll();
}

// False when there is nothing more now.
bool Supervisor::ReadOutput(Member& member) {
  std::vector<char> piece(kOutputPiece);
  const ssize_t size = read(member.worker->output(), piece.data(), piece.size());
  if (size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR)) member.prints = false;
  if (size <= 0) return false;
  member.lines.Add({piece.data(), static_cast<size_t>(size)}, [&](std::string line) {
    Log(spdlog::level::info, member, absl::StrCat(": ", line));
  });
  return true;
}

void Supervisor::ReadControl(Member& member) {
  std::vector<char> buffer(kMaxWorkerMessage);
  absl::string_view message;
  const Received received =
      ReceiveMessage(member.worker->control(), absl::MakeSpan(buffer), message);
  if (received == Received::kNothing) return;
  absl::StatusOr<Hello> hello = absl::InvalidArgumentError("");
  if (received == Received::kMessage) hello = ParseHello(message);
  if (hello.ok()) return OnHello(member, *std::move(hello));
  member.speaks = false;
  MutexLock lock(mu_);
  if (member.state != State::kRetiring) member.kill_at = RealClock().Now() + kGoneGrace;
}

void Supervisor::OnHello(Member& member, Hello hello) {
  files_.Add(hello.files, member.started_by_files);
  MutexLock lock(mu_);
  if (member.state != State::kStarting) return;
  if (hello.failed.empty()) return BecomeReady(member, std::move(hello.spec));
  member.reason = absl::StrCat("could not start: ", hello.failed);
  if (!failed_.empty()) return;  // One traceback is enough.
  for (const absl::string_view line : absl::StrSplit(hello.traceback, '\n', absl::SkipEmpty()))
    Log(spdlog::level::err, member, absl::StrCat(": ", line));
}

void Supervisor::BecomeReady(Member& member, ModelSpec spec) {
  member.state = State::kReady;
  member.spec = std::move(spec);
  member.spec.name = name_;
  for (int slot = member.worker->slots(); slot-- > 0;) member.free_slots.push_back(slot);
  if (member.generation == generation_) {
    BecomeUp(member);
  } else if (Count(State::kReady) == options_.workers) {
    ChangeGeneration();
  }
  started_ = started_ || Count(State::kUp) == options_.workers;
  changed_.NotifyAll();
}

void Supervisor::BecomeUp(Member& member) {
  member.state = State::kUp;
  if (specs_.empty() || Fingerprint(*specs_.back()) != Fingerprint(member.spec)) {
    specs_.push_back(std::make_unique<const ModelSpec>(member.spec));
    spec_ = specs_.back().get();
  }
  const absl::Duration took = RealClock().Now() - member.started;
  Log(spdlog::level::info, member,
      absl::StrFormat(" is up, process %d, after %.2f s", member.worker->process().pid(),
                      absl::ToDoubleSeconds(took)));
}

// All at once, so that those who answer agree on what they take.
void Supervisor::ChangeGeneration() {
  generation_ = next_generation_;
  for (const auto& member : members_) {
    if (member->state == State::kUp) Retire(*member, kExitGrace);
    if (member->state == State::kReady) BecomeUp(*member);
  }
}

// What answers goes on, with new workers where some have ended meanwhile.
void Supervisor::AbandonGeneration() {
  next_generation_ = generation_;
  for (const auto& member : members_) {
    if (member->generation == generation_ || member->state == State::kRetiring) continue;
    member->state = State::kRetiring;
    Kill(*member, "was replaced");
  }
  for (int number = 1; number <= options_.workers; ++number) {
    if (!HasWorker(number, nullptr)) seats_[number - 1].start_at = RealClock().Now();
  }
}

// Apart from `but`.
bool Supervisor::HasWorker(int number, const Member* but) const {
  return std::any_of(members_.begin(), members_.end(), [&](const auto& member) {
    return member.get() != but && member->worker->number() == number &&
           member->state != State::kRetiring;
  });
}

int Supervisor::Count(State state) const {
  return static_cast<int>(
      std::count_if(members_.begin(), members_.end(),
                    [state](const auto& member) { return member->state == state; }));
}

void Supervisor::BuryDead() {
  for (size_t i = members_.size(); i-- > 0;) {
    pollfd ended = {members_[i]->worker->process().pidfd(), POLLIN, 0};
    if (poll(&ended, 1, 0) > 0) Bury(*members_[i]);
  }
}

void Supervisor::Bury(Member& member) {
  if (member.speaks) ReadControl(member);
  const std::string how = member.worker->process().Reap();
  for (int i = 0; i < kMaxLastPieces && member.prints && ReadOutput(member); ++i) {
  }
  member.lines.Finish(
      [&](std::string line) { Log(spdlog::level::info, member, absl::StrCat(": ", line)); });
  MutexLock lock(mu_);
  member.worker->ended = member.reason.empty() ? how : member.reason;
  if (!stopping_ && member.state != State::kRetiring) {
    last_end_ = absl::StrCat("worker ", member.worker->number(), " ", member.worker->ended);
    const std::string next = Reseat(member);
    if (started_) Log(spdlog::level::warn, member, absl::StrCat(" ", member.worker->ended, next));
  }
  members_.erase(std::find_if(members_.begin(), members_.end(),
                              [&](const auto& other) { return other.get() == &member; }));
  changed_.NotifyAll();
}

// Has another worker take the place of one that has ended, and says when.
std::string Supervisor::Reseat(const Member& member) {
  if (!started_) {
    if (failed_.empty()) failed_ = member.worker->ended;
    return "";
  }
  const int number = member.worker->number();
  if (member.generation != generation_) {
    AbandonGeneration();
    return "; the workers before it go on";
  }
  if (HasWorker(number, &member)) return "; its successor starts";
  const bool by_itself = member.reason.empty();
  const bool young = RealClock().Now() - member.started < kEarly;
  return SeatAnother(seats_[number - 1],
                     member.state == State::kStarting || (by_itself && young && !member.answered));
}

std::string Supervisor::SeatAnother(Seat& seat, bool early) {
  seat.early_ends = early ? seat.early_ends + 1 : 0;
  const absl::Duration wait = BackOff(seat.early_ends);
  seat.start_at = RealClock().Now() + wait;
  if (wait == absl::ZeroDuration()) return "; another one starts";
  return absl::StrCat("; another one starts in ", absl::FormatDuration(wait));
}

void Supervisor::KillOverdue() {
  MutexLock lock(mu_);
  const absl::Time now = RealClock().Now();
  for (const auto& member : members_) {
    if (member->kill_at > now) continue;
    Kill(*member, kClosed);
    member->kill_at = absl::InfiniteFuture();
  }
}

void Supervisor::ReloadIfChanged() {
  const absl::Time now = RealClock().Now();
  if (now < look_at_files_) return;
  look_at_files_ = now + kReloadPeriod;
  const bool changed = files_.Changed();
  MutexLock lock(mu_);
  if (!changed || !started_ || stopping_) return;
  log_.Add(spdlog::level::info, absl::StrCat(name_, ": a file has changed; new workers start"));
  AbandonGeneration();
  ++next_generation_;
  for (Seat& seat : seats_) seat = {.start_at = now};
}

void Supervisor::RetireAll() {
  for (const auto& member : members_) {
    const bool told = member->state == State::kRetiring && member->kill_at < absl::InfiniteFuture();
    if (told || !member->reason.empty()) continue;
    const bool idle = static_cast<int>(member->free_slots.size()) == member->worker->slots();
    if (member->state == State::kUp && idle) {
      Retire(*member, grace_);
    } else {
      member->state = State::kRetiring;
      Kill(*member, kStopped);
    }
  }
}

}  // namespace millrace
