// Keeps the worker processes of one model running.
//
// A worker is starting, then up, and at some time gone; its place then gets another one at once.
// Where workers end again and again before they have answered anything, the next one waits: 0.1 s,
// then twice as long each time, up to 30 s.
//
// One thread starts them all, hears what they print and notices when they end: it lives as long as
// the supervisor, because children end with the thread that started them.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/functional/function_ref.h>
#include <absl/status/statusor.h>
#include <absl/strings/string_view.h>
#include <absl/time/time.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "server/core/model.h"
#include "server/core/mutex.h"
#include "server/workers/file_watch.h"
#include "server/workers/worker.h"
#include "server/workers/worker_log.h"

namespace millrace {

struct WorkerOptions {
  // Processes, and requests that each runs at once; 0 for one a core, and for one.
  int workers = 0;
  int threads = 0;

  // A worker that does not answer a request for so long is killed.
  absl::Duration timeout = absl::Minutes(10);

  // The interpreter; empty for that of the active virtual environment, or else python3.
  std::string python;

  // Starts workers anew when a file of the user's changes.
  bool reload = false;
};

// Thread-safe.
class Supervisor {
 public:
  // A slot of a worker, to be given back with Release().
  struct Lease {
    std::shared_ptr<Worker> worker;
    int slot = 0;
  };

  // `command` starts a worker; `options` are complete.
  Supervisor(std::string name, std::vector<std::string> command, WorkerOptions options);
  ~Supervisor();  // Stops.

  // Returns when all workers are up.  INVALID_ARGUMENT, with a text for the user, when the first of
  // them cannot start; CANCELLED when `interrupted`, which is asked now and then, says so.
  absl::Status Start(absl::FunctionRef<bool()> interrupted);

  // Ends all workers: at once those that run a request, the others when they have cleaned up or
  // `grace` is over.  Idempotent.
  void Stop(absl::Duration grace);

  // Waits for a free slot.  UNAVAILABLE at `deadline`, and at once when no worker is up and those
  // that start have failed again and again: the message says how the last one ended.
  absl::StatusOr<Lease> Acquire(absl::Time deadline);

  // After a request that was answered.
  void Release(Lease lease);

  // Instead of Release: ends the worker, for the reason `why` or, if that is empty, because it has
  // gone by itself.  Waits until its process is no more, and says how it ended.
  std::string End(Lease lease, absl::string_view why);

  // True while requests have a prospect.
  bool ready() const;

  // What the model is, from Start() on.  Specs live as long as the supervisor; another one takes
  // its place when the user's file changes.
  const ModelSpec& spec() const;

  // Tells the workers to unmap memory that is gone.
  void Forget(uint64_t memory);

 private:
  // From left to right; kReady waits for the others of its generation, kRetiring from anywhere.
  enum class State { kStarting, kReady, kUp, kRetiring };

  // A worker, as the supervisor sees it.
  struct Member {
    std::shared_ptr<Worker> worker;
    int generation = 0;
    State state = State::kStarting;
    ModelSpec spec = {};  // from kReady on
    std::vector<int> free_slots = {};
    bool answered = false;
    bool prints = true;       // and has not closed its output
    bool speaks = true;       // nor its control socket
    std::string reason = {};  // why it is ended, if not by itself
    absl::Time started = absl::InfinitePast();
    int64_t started_by_files = 0;  // the same, by FileClock()
    absl::Time kill_at = absl::InfiniteFuture();
    LineCutter lines = {};
  };

  // Where a worker belongs.
  struct Seat {
    int early_ends = 0;  // in a row
    absl::Time start_at = absl::InfiniteFuture();
  };

  // The supervising thread.
  void Supervise();
  void WaitForEvents();
  absl::Time NextTimer() const;
  void StartDue();
  void StartWorker(int number);
  void HearOut(Member& member);
  bool ReadOutput(Member& member);
  void ReadControl(Member& member);
  void OnHello(Member& member, Hello hello);
  void BecomeReady(Member& member, ModelSpec spec) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BecomeUp(Member& member) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ChangeGeneration() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AbandonGeneration() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasWorker(int number, const Member* but) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  int Count(State state) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void BuryDead();
  void Bury(Member& member);
  std::string Reseat(const Member& member) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::string SeatAnother(Seat& seat, bool early) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void KillOverdue();
  void ReloadIfChanged();
  void RetireAll() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Any thread.
  void Retire(Member& member, absl::Duration grace) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Kill(Member& member, absl::string_view reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Wake();

  Member* Find(const Worker& worker) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Member* LeastBusy() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasProspect() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Log(spdlog::level::level_enum level, const Member& member, absl::string_view text);

  // Constant after construction.
  const std::string name_;
  const std::vector<std::string> command_;
  const WorkerOptions options_;
  const Fd wake_;

  WorkerLog log_;
  std::thread thread_;
  FileWatch files_;                                  // the thread's
  absl::Time look_at_files_ = absl::InfinitePast();  // the thread's

  mutable Mutex mu_;
  CondVar changed_;  // anything below
  // Added to and erased from by the thread only, which so may look through it without the lock.
  std::vector<std::unique_ptr<Member>> members_;
  std::vector<Seat> seats_ ABSL_GUARDED_BY(mu_);
  int generation_ ABSL_GUARDED_BY(mu_) = 0;       // that answers
  int next_generation_ ABSL_GUARDED_BY(mu_) = 0;  // that starts, if another one
  std::vector<std::unique_ptr<const ModelSpec>> specs_ ABSL_GUARDED_BY(mu_);
  std::string last_end_ ABSL_GUARDED_BY(mu_);  // of a worker, for messages
  bool started_ ABSL_GUARDED_BY(mu_) = false;  // all were up once
  std::string failed_ ABSL_GUARDED_BY(mu_);    // why they were not
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  absl::Duration grace_ ABSL_GUARDED_BY(mu_);

  std::atomic<const ModelSpec*> spec_ = nullptr;  // the last of specs_
};

}  // namespace millrace
