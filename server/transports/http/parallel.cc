#include "server/transports/http/parallel.h"

#include <algorithm>
#include <atomic>
#include <latch>
#include <memory>

#include <boost/asio/execution/occupancy.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/query.hpp>

namespace millrace {
namespace {

namespace asio = boost::asio;

// Whoever has time claims the next part.  Shared, because a worker that comes when nothing is left
// to claim may come when nobody waits any more.
struct Parts {
  explicit Parts(size_t parts) : count(parts), left(static_cast<ptrdiff_t>(parts)) {}

  const size_t count;
  std::atomic<size_t> next = 0;
  std::latch left;
};

void Work(Parts& parts, absl::FunctionRef<void(size_t)> part) {
  while (true) {
    const size_t i = parts.next.fetch_add(1);
    if (i >= parts.count) return;
    part(i);
    parts.left.count_down();
  }
}

}  // namespace

void InParallel(asio::thread_pool& workers, size_t count, absl::FunctionRef<void(size_t)> part) {
  if (count == 1) return part(0);
  const auto parts = std::make_shared<Parts>(count);
  const size_t threads = asio::query(workers.get_executor(), asio::execution::occupancy);
  for (size_t i = 1; i < std::min(count, threads); ++i) {
    asio::post(workers, [parts, part] { Work(*parts, part); });
  }
  Work(*parts, part);
  parts->left.wait();
}

}  // namespace millrace
