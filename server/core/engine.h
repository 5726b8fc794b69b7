// Admits requests, queues them, runs them on models, reports what it did.  Knows no protocol.
//
// A transport opens a Call for each request, declares what will arrive, fills the call's assembler
// once it is admitted, and submits it:
//
//   Open ──► Admit ──(on_admitted)──► fill assembler ──► Submit ──► on_done
//
// on_done comes exactly once for every call that was opened, with the response or with an error,
// and may come at any time after Open: when the call is refused, its deadline passes, its client
// sends too slowly, or the server ends.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/functional/any_invocable.h>
#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include <atomic>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "server/core/assembler.h"
#include "server/core/clock.h"
#include "server/core/model.h"
#include "server/core/mutex.h"
#include "server/core/probe.h"
#include "server/core/registry.h"
#include "server/core/slab_pool.h"

namespace millrace {

class Engine;

struct EngineOptions {
  // Requests that run at once, on as many threads of the engine's or where they were submitted; 0
  // for one a core.  Not those of models with a Concurrency() of their own.
  int threads = 0;

  // Bytes of one request's tensors; larger ones are refused before a byte is read.  0: the arena's
  // limit.
  uint64_t max_request_bytes = 0;

  // Calls that are open at once, from the first byte of a header to the answer.  More are refused.
  int max_calls = 4096;

  // Calls that wait for room in the arena, and for how long.  More or longer ones are refused.
  int max_waiting = 1024;
  absl::Duration admission_timeout = absl::Seconds(10);

  // Requests queued for one model.  More are refused.  Raising it trades waiting for refusals.
  int max_queued = 1024;

  // A client must declare its request, and then send at least `min_bytes_per_second`, in every
  // period of this length.
  absl::Duration stall_timeout = absl::Seconds(10);
  uint64_t min_bytes_per_second = 1024;

  // From Open() to the answer; a client's own deadline may be sooner.
  absl::Duration request_timeout = absl::Minutes(10);
};

// The answer.  Its tensors keep their bytes alive.
struct Response {
  std::string model;
  std::string version;
  std::string request_id;
  std::vector<Tensor> outputs;
};

// What a client says it will send.
struct Declaration {
  std::string model;    // empty: the default model
  std::string version;  // empty: the latest
  std::string request_id;
  Parameters parameters;

  // The tensors in the order of their bytes; or none, if they are told by the bytes themselves.
  std::optional<std::vector<TensorMeta>> tensors;

  // With `tensors` absent: bytes to promise at the start, and the most that may come (0:
  // max_request_bytes).
  uint64_t initial_bytes = 0;
  uint64_t max_bytes = 0;
};

// One request on its way through the engine.  Owned by its transport and, while it waits, is queued
// or runs, by the engine: the last of them gives the memory back.  A transport that lets go of a
// call before Submit has cancelled it; on_done is then not called.
//
// Admit, assembler and Submit belong to one thread at a time, the transport's; the rest is
// thread-safe.
class Call : public std::enable_shared_from_this<Call> {
 public:
  // From an engine thread, the transport's own or inside the method that caused it.  Must not
  // block.
  using OnDone = absl::AnyInvocable<void(absl::StatusOr<Response>) &&>;
  using OnAdmitted = absl::AnyInvocable<void() &&>;

  ~Call();

  // Checks the declaration against the model and the limits and promises the memory: `on_admitted`
  // is called, perhaps before Admit returns, when there is room.  Or else on_done is called.  Call
  // once.
  void Admit(Declaration declaration, OnAdmitted on_admitted);

  // Where the bytes go.  From on_admitted on, and until Submit.
  Assembler& assembler() { return *assembler_; }

  // The model, from on_admitted on.
  const ModelSpec& spec() const { return *plan_.spec; }

  // All bytes are here, and Submit() follows when it is known what they mean: the client is not
  // waited for any more.
  void EndUpload();

  // All bytes are here: queues the request, or runs it before Submit returns if it runs quickly and
  // nothing else is due.
  void Submit();

  // The same for a declaration without tensors, with those that were found in its bytes.
  void Submit(std::vector<Tensor> inputs);

  // Ends the call with `status`, unless it has ended.
  void Cancel(absl::Status status);

  // Sooner than the server's own; may be called before Admit.
  void SetDeadline(absl::Time deadline);

  // Where the time went so far; whole once on_done was called.
  Timing timing() const;

 private:
  friend class Engine;

  // Moves from left to right; kDone from anywhere.
  enum class State { kOpen, kWaiting, kReceiving, kQueued, kRunning, kDone };

  struct Times {
    absl::Time opened, declared, admitted, submitted, started, ended;

    Timing Steps() const;
  };

  Call(Engine& engine, absl::string_view way, OnDone on_done);

  // What a declaration comes to.
  struct Plan {
    Model* model = nullptr;
    const ModelSpec* spec = nullptr;  // the model's as the request was checked
    std::string request_id;
    std::optional<std::vector<TensorMeta>> tensors;  // until they are the assembler's
    uint64_t promised_bytes = 0;                     // to ask of the arena
    uint64_t max_bytes = 0;                          // for undeclared tensors
  };

  // The work of its model while bytes arrive.
  struct Early {
    // Where it is: nothing to do, in its lane's `arriving`, or on an engine thread.
    enum class Step { kIdle, kListed, kRunning };

    // Of the one thread that runs them.
    std::unique_ptr<EarlyRun> run;
    Outputs outputs;

    uint64_t row_size;

    // Under the engine's lock.
    Step step = Step::kIdle;
    absl::Span<const std::byte> rows;  // the whole ones that are here
    size_t shown = 0;                  // bytes of them that the model was called with
  };

  // Checks the declaration, and takes its texts and tensors.
  absl::StatusOr<Plan> MakePlan(Declaration& declaration) const;

  // Null if the model does not work on the request early.
  std::unique_ptr<Early> StartEarly(const Plan& plan) const;
  void BecomeAdmitted(std::unique_ptr<Slab> slab);

  Engine& engine_;
  const absl::string_view way_;

  // The transport's until Submit, then the thread's that runs the call.
  Request request_;

  // Set once, under the engine's lock, by Admit.
  Plan plan_;

  // Null for most.  Set before admission; taken by the thread that runs the call to its end.
  std::unique_ptr<Early> early_;

  // Set once, under the engine's lock; then the transport's to fill and any thread's to ask
  // received() of.
  std::optional<Assembler> assembler_;

  // Under the engine's lock.
  State state_ = State::kOpen;
  OnDone on_done_;
  OnAdmitted on_admitted_;
  Times times_;
  absl::Time deadline_;
  bool uploaded_ = false;
  absl::Time window_start_;       // of the stall check
  uint64_t window_received_ = 0;  // bytes at that time
};

// Thread-safe.
class Engine {
 public:
  // All of them must outlive it.
  Engine(EngineOptions options, SlabPool& pool, const Registry& registry, EngineProbe& probe,
         const Clock& clock = RealClock());

  // Drains without waiting.  Requires that no transport opens, submits or cancels calls any more.
  ~Engine();

  // Opens a call.  `way` names how it came, for reports, and lives forever.  RESOURCE_EXHAUSTED at
  // max_calls, UNAVAILABLE while draining; `on_done` is then not called.
  absl::StatusOr<std::shared_ptr<Call>> Open(absl::string_view way, Call::OnDone on_done);

  // Refuses new calls and those that wait for room, lets those that were admitted finish, and ends
  // with UNAVAILABLE what is left after `timeout`.  Returns when every on_done has returned.
  // Idempotent.
  void Drain(absl::Duration timeout);

  // Refuses new calls from now on; the first step of Drain(), for a server that tells the world
  // before it waits.
  void StopAdmitting();

  // False from StopAdmitting() or Drain() on.
  bool ready() const;

  // Calls whose on_done has not returned.
  int open_calls() const;

  // Requests that run at once, of all models together.
  int concurrency() const;

  const EngineOptions& options() const { return options_; }
  const Registry& registry() const { return registry_; }
  SlabPool& pool() { return pool_; }

 private:
  friend class Call;
  using CallPtr = std::shared_ptr<Call>;

  // Threads that run some models' requests: those of one that has its own, or of all others.
  struct Lane {
    explicit Lane(int threads) : most(threads) {}

    const int most;                            // threads, and calls that run at once
    CondVar work;                              // any of the following, or stopping_, changed
    int running = 0;                           // calls in a model
    std::deque<const Model*> turns;            // models with queued calls; the first runs next
    std::deque<std::weak_ptr<Call>> arriving;  // with rows to show their model

    bool HasWork() const { return !(turns.empty() && arriving.empty()) && running < most; }
  };

  Lane& LaneOf(const Model* model);

  // The steps of a call; Call's methods lead here.
  void Admit(Call& call, Call::Plan plan, Call::OnAdmitted on_admitted);
  void OnArrived(Call& call, absl::Span<const std::byte> bytes);
  void Submit(CallPtr call);
  void Finish(Call& call, absl::StatusOr<Response> result);
  void Abandon(Call& call);

  // Refuses when the model's queue is full.
  absl::Status Enqueue(const CallPtr& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Engine threads.
  void Work(Lane& lane);
  CallPtr PopQueued(Lane& lane) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Work on what arrives is work on the side: done when nothing is queued and a place is free, and
  // otherwise left for when the request runs.  A call in a lane's `arriving` may have moved on, or
  // be gone.
  bool ListArriving(Call& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Span<const std::byte> PopArriving(Lane& lane, CallPtr& call)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RunEarly(Call& call, absl::Span<const std::byte> rows);

  // Engine threads, or the one that submits a request that runs quickly.
  void BecomeRunning(Call& call, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RunToEnd(Call& call);
  absl::StatusOr<Response> Run(Call& call);
  static absl::Status Try(const Call& call, absl::FunctionRef<absl::Status()> step);

  // The keeper: one thread that ends what takes too long, admits what waited, and trims the arena.
  void Keep();
  void EndOverdue();
  absl::Status Overdue(Call& call, absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AdmitWaiting();
  void EndWhere(absl::FunctionRef<bool(const Call&)> which, const absl::Status& status);

  // Takes a waiting or queued call out of its queue, and returns the reference that the queue had.
  CallPtr Unqueue(Call& call) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant after construction.
  const EngineOptions options_;
  SlabPool& pool_;
  const Registry& registry_;
  EngineProbe& probe_;
  const Clock& clock_;
  Lane shared_;                                                     // under mu_, as the others
  absl::flat_hash_map<const Model*, std::unique_ptr<Lane>> lanes_;  // of models with their own
  std::vector<std::thread> threads_;

  mutable Mutex mu_;
  CondVar keeper_;   // stopping_ changed, or room was freed
  CondVar drained_;  // open_ changed
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  int open_ ABSL_GUARDED_BY(mu_) = 0;  // calls whose on_done has not returned
  absl::flat_hash_set<Call*> calls_ ABSL_GUARDED_BY(mu_);
  std::deque<CallPtr> waiting_ ABSL_GUARDED_BY(mu_);
  absl::flat_hash_map<const Model*, std::deque<CallPtr>> queues_ ABSL_GUARDED_BY(mu_);

  // Calls in waiting_, to be read without the lock by whoever returns memory.
  std::atomic<int> waiting_count_ = 0;
};

}  // namespace millrace
