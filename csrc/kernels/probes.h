// Probes for the bench: what the machine gives at most.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"

namespace ek {

struct ProbeKernels {
  // dot_burst: register-only dot products, returns multiply-adds done. read_stream: reads n
  // bytes in `streams` runs, prefetching so many bytes ahead, and returns a sum of them.
  EK_KERNEL uint64_t (*dot_burst)(size_t iterations);
  EK_KERNEL uint64_t (*read_stream)(const uint8_t* x, size_t n, size_t streams, size_t prefetch);
};

#define EK_PROBE_KERNELS(X) X(dot_burst) X(read_stream)

}  // namespace ek
