// Work of one request on several threads.
#pragma once

#include <absl/functional/function_ref.h>

#include <cstddef>

#include <boost/asio/thread_pool.hpp>

namespace millrace {

// Calls part(0), part(1), ... part(count - 1), each once, in that order but several at a time: on
// this thread, and on those of the workers that have nothing else to do.  Returns when all have
// returned.  This thread may be one of the workers.  `part` must not throw.
void InParallel(boost::asio::thread_pool& workers, size_t count,
                absl::FunctionRef<void(size_t)> part);

}  // namespace millrace
