#include "server/workers/worker.h"

#include <absl/strings/str_cat.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "server/core/status_macros.h"
#include "server/workers/socket.h"

namespace millrace {
namespace {

absl::Status NoDescriptor() {
  return absl::ResourceExhaustedError(
      absl::StrCat("no descriptor for a worker process: ", strerror(errno)));
}

}  // namespace

absl::StatusOr<std::shared_ptr<Worker>> Worker::Start(std::vector<std::string> command, int number,
                                                      int slots) {
  int output[2];
  if (pipe2(output, O_CLOEXEC) != 0) return NoDescriptor();
  Fd ours(output[0]);
  const Fd theirs(output[1]);
  fcntl(ours.get(), F_SETFL, fcntl(ours.get(), F_GETFL) | O_NONBLOCK);
  std::vector<Fd> sockets;
  std::vector<Fd> their_sockets;
  std::vector<int> inherited;
  for (int i = 0; i < 1 + slots; ++i) {
    ASSIGN_OR_RETURN(SocketPair pair, MakeSocketPair());
    sockets.push_back(std::move(pair.ours));
    inherited.push_back(pair.theirs.get());
    command.push_back(absl::StrCat(pair.theirs.get()));
    their_sockets.push_back(std::move(pair.theirs));
  }
  ASSIGN_OR_RETURN(Process process, Process::Start(command, theirs.get(), inherited));
  Fd control = std::move(sockets.front());
  sockets.erase(sockets.begin());
  return std::shared_ptr<Worker>(new Worker(number, std::move(process), std::move(control),
                                            std::move(ours), std::move(sockets)));
}

// Not closed: others may be about to send.
void Worker::CloseControl() { shutdown(control_.get(), SHUT_RDWR); }

absl::Status Worker::Share(const Slab& slab, uint64_t size, bool writable, Maps& maps) {
  MutexLock lock(mu_);
  uint64_t& mapped = mapped_[{slab.memory_id(), writable}];
  if (mapped >= size) return absl::OkStatus();
  if (maps.maps.size() == kMaxMaps) {
    return absl::InvalidArgumentError(
        absl::StrCat("more than ", kMaxMaps, " tensors apart from one another; send fewer"));
  }
  if (writable) {
    maps.fds.push_back(slab.fd());
  } else {
    // Opened again, so that it cannot be mapped for writing.
    Fd fd(open(absl::StrCat("/proc/self/fd/", slab.fd()).c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0) return NoDescriptor();
    maps.fds.push_back(fd.get());
    maps.owned.push_back(std::move(fd));
  }
  mapped = slab.memory_size();
  maps.maps.push_back({slab.memory_id(), mapped, writable});
  return absl::OkStatus();
}

void Worker::Dropped(uint64_t memory) {
  MutexLock lock(mu_);
  mapped_.erase({memory, false});
  mapped_.erase({memory, true});
}

void Worker::Forget(uint64_t memory) {
  MutexLock lock(mu_);
  if (mapped_.erase({memory, false}) + mapped_.erase({memory, true}) == 0) return;
  to_forget_.push_back(memory);
  if (SendMessage(control_.get(), ForgetMessage(to_forget_))) to_forget_.clear();
}

}  // namespace millrace
