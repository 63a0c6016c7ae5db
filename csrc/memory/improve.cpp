// Which capacities the exact search is asked for.
#include <algorithm>
#include <numeric>

#include "base/checked.h"
#include "memory/search.h"

namespace ek {
namespace {

using Clock = std::chrono::steady_clock;

// Neighbors and frames grow with the square of the buffers; nets have hundreds.
constexpr size_t kMostBuffers = 2048;
constexpr double kLongestSeconds = 1e6;

/// Half of what is left, so that something stays for the next capacity.
Effort half_of(uint64_t nodes, Clock::time_point end) {
  Effort effort;
  effort.most_nodes = nodes - nodes / 2;
  const Clock::time_point now = Clock::now();
  effort.end = now < end ? now + (end - now) / 2 : now;
  return effort;
}

}  // namespace

Status improve_plan(const std::vector<Buffer>& buffers, uint64_t alignment, const SearchLimits& limits,
                    MemoryPlan* plan) {
  std::vector<Buffer> present;
  std::vector<size_t> ids;
  uint64_t unit = 0;
  for (size_t i = 0; i < buffers.size(); ++i) {
    if (buffers[i].size == 0) continue;
    present.push_back(buffers[i]);
    ids.push_back(i);
    unit = std::gcd(unit, buffers[i].size);
  }
  if (present.empty() || present.size() > kMostBuffers) return {};
  const double seconds = std::min(limits.seconds, kLongestSeconds);
  const Clock::time_point end =
      Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));

  // Peaks of canonical plans are sums of sizes, so multiples of the unit, as all bounds here are.
  uint64_t capacity = plan->lower_bound;
  uint64_t open = plan->lower_bound;  // below it nothing is left to try
  std::vector<uint64_t> offsets(present.size(), 0);
  while (capacity < plan->peak && plan->nodes < limits.most_nodes && Clock::now() < end) {
    Effort effort = half_of(limits.most_nodes - plan->nodes, end);
    const Fits fits = search_fit(present, capacity, &effort, &offsets);
    plan->nodes += effort.nodes;
    if (fits == Fits::kYes) {
      uint64_t peak = 0;
      for (size_t i = 0; i < present.size(); ++i) {
        plan->offsets[ids[i]] = offsets[i];
        peak = std::max(peak, offsets[i] + present[i].size);
      }
      EK_RETURN_IF_ERROR(check_plan(buffers, plan->offsets, alignment, peak));
      plan->peak = peak;
      plan->method = "search";
    } else {
      open = capacity + unit;
      if (fits == Fits::kNo) plan->least_peak = open;
    }
    capacity = open + (plan->peak - open) / unit / 2 * unit;
  }
  return {};
}

}  // namespace ek
