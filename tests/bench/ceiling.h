// What the two sides of the ceiling say to each other: a hello for each connection, then images of
// that size and answers of 4 bytes, in turn.
#pragma once

#include <cstdint>

namespace millrace::bench {

struct Hello {
  uint64_t bytes;
  uint64_t read_size;
};

}  // namespace millrace::bench
