// Static memory planning: where in one arena each buffer lies, so that buffers alive at the same time do not overlap.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/status.h"

namespace ek {

/// `size` bytes that are needed during the half-open time [lower, upper).
struct Buffer {
  int64_t lower = 0, upper = 0;
  uint64_t size = 0;
};

struct MemoryPlan {
  std::vector<uint64_t> offsets;  // bytes, one a buffer, multiples of the alignment
  uint64_t peak = 0;              // bytes that the arena needs
  uint64_t lower_bound = 0;       // most bytes alive at one time; no plan is smaller
  std::string method;             // the order and fit that won, e.g. "size, best fit"
};

/// The best of a portfolio of greedy orders; stops at the first that reaches the lower bound. Sizes are rounded up to
/// `alignment`. Deterministic. Refuses empty lifetimes, an alignment of 0 and totals past 2^62.
Status plan_memory(const std::vector<Buffer>& buffers, uint64_t alignment, MemoryPlan* plan);

/// Holds a plan, whoever made it, to its promise: every buffer aligned and inside `capacity`, no two that are alive
/// together overlap. Shares no code with the planner. A buffer with lower == upper is never alive.
Status check_plan(const std::vector<Buffer>& buffers, const std::vector<uint64_t>& offsets, uint64_t alignment,
                  uint64_t capacity);

}  // namespace ek
