// Static memory planning: where in one arena each buffer lies, so that buffers alive at the same time do not overlap.
#pragma once

#include <cstdint>
#include <limits>
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
  std::string method;             // the order and fit that won, e.g. "size, best fit", or "search"
  uint64_t greedy_peak = 0;       // of the best greedy plan
  uint64_t least_peak = 0;        // no plan is smaller: the lower bound, or more where a search tried all below
  uint64_t nodes = 0;             // placements that the search tried; 0: it did not run

  bool proved() const { return peak == least_peak; }
};

/// What the search after the portfolio may spend. Nodes are counted alike on all machines; seconds are not, so that a
/// plan that shall be the same everywhere has no limit of them.
struct SearchLimits {
  uint64_t most_nodes = 50'000;
  double seconds = std::numeric_limits<double>::infinity();
};

/// The best of a portfolio of greedy orders, which stops at the first that reaches the lower bound, and else of an
/// exact search within `limits`. Sizes are rounded up to `alignment`. Deterministic without a limit of seconds. Refuses
/// empty lifetimes, an alignment of 0, totals past 2^62 and seconds that are no positive number.
Status plan_memory(const std::vector<Buffer>& buffers, uint64_t alignment, MemoryPlan* plan,
                   const SearchLimits& limits = {});

/// Holds a plan, whoever made it, to its promise: every buffer aligned and inside `capacity`, no two that are alive
/// together overlap. Shares no code with the planner. A buffer with lower == upper is never alive.
Status check_plan(const std::vector<Buffer>& buffers, const std::vector<uint64_t>& offsets, uint64_t alignment,
                  uint64_t capacity);

}  // namespace ek
