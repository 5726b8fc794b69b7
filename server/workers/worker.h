// One worker process: its sockets, and the memory that it maps.
#pragma once

#include <absl/base/thread_annotations.h>
#include <absl/container/flat_hash_map.h>
#include <absl/status/statusor.h>
#include <absl/types/span.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "server/core/mutex.h"
#include "server/core/slab_pool.h"
#include "server/workers/fd.h"
#include "server/workers/message.h"
#include "server/workers/process.h"

namespace millrace {

// Shared by the supervisor and those who talk to it on a slot: whoever is last lets go of sockets
// that nobody answers any more.
class Worker {
 public:
  // Starts `command` with the numbers of its sockets as further arguments.  From the supervisor's
  // thread, with which the process ends.
  static absl::StatusOr<std::shared_ptr<Worker>> Start(std::vector<std::string> command, int number,
                                                       int slots);

  // From 1; the one that replaces it has the same.
  int number() const { return number_; }

  Process& process() { return process_; }
  int output() const { return output_.get(); }  // what it prints; does not block
  int control() const { return control_.get(); }
  int slot(int index) const { return slots_[index].get(); }
  int slots() const { return static_cast<int>(slots_.size()); }

  // How it ended, once it has; under the supervisor's lock.
  std::string ended;

  // Tells it to exit.
  void CloseControl();

  // A number for the next request.  Thread-safe.
  uint64_t NextRun() { return ++last_run_; }

  // Descriptors of memory that the worker has yet to map, to be sent with a message.
  struct Maps {
    std::vector<MemoryMap> maps;
    std::vector<int> fds;
    std::vector<Fd> owned;
  };

  // Adds the slab's memory to `maps` unless the worker maps its first `size` bytes already.
  // Thread-safe, as the following.
  absl::Status Share(const Slab& slab, uint64_t size, bool writable, Maps& maps);

  // The worker does not map it any more.
  void Dropped(uint64_t memory);

  // Tells the worker to unmap memory that is gone.
  void Forget(uint64_t memory);

 private:
  Worker(int number, Process process, Fd control, Fd output, std::vector<Fd> slots)
      : number_(number),
        process_(std::move(process)),
        control_(std::move(control)),
        output_(std::move(output)),
        slots_(std::move(slots)) {}

  const int number_;
  Process process_;
  Fd control_;
  Fd output_;
  const std::vector<Fd> slots_;
  std::atomic<uint64_t> last_run_ = 0;

  Mutex mu_;
  // Bytes that are mapped, by memory and whether for writing.
  absl::flat_hash_map<std::pair<uint64_t, bool>, uint64_t> mapped_ ABSL_GUARDED_BY(mu_);
  std::vector<uint64_t> to_forget_ ABSL_GUARDED_BY(mu_);  // that it has yet to be told
};

}  // namespace millrace
