// Greedy by one key, as TFLite and XNNPACK place their tensors (largest first, smallest gap that fits), over several
// keys: which one wins depends on the graph, and all of them together take milliseconds. What stays above the lower
// bound goes to the exact search.
#include "memory/planner.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/checked.h"
#include "memory/search.h"

namespace ek {
namespace {

constexpr uint64_t kMaxTotal = uint64_t{1} << 62;

/// Which free place a buffer takes: the smallest that fits, the lowest, or by turns the lowest and the highest below
/// the lower bound. The last plans a chain of layers, where only neighbors live together, at the lower bound.
enum class Fit { kBest, kFirst, kEnds };
constexpr const char* kFitNames[] = {"best fit", "first fit", "both ends"};

struct Order {
  const char* name;
  /// Placed first: the greater key, then the earlier start, then the lower index.
  double (*key)(const Buffer& b);
};

double length(const Buffer& b) { return static_cast<double>(b.upper) - static_cast<double>(b.lower); }

const Order kOrders[] = {
    {"size", [](const Buffer& b) { return static_cast<double>(b.size); }},
    {"area", [](const Buffer& b) { return static_cast<double>(b.size) * length(b); }},
    {"length", [](const Buffer& b) { return length(b); }},
    {"start", [](const Buffer& b) { return -static_cast<double>(b.lower); }},
};

std::vector<size_t> sorted_by(const Order& order, const std::vector<Buffer>& buffers) {
  std::vector<size_t> ids(buffers.size());
  std::iota(ids.begin(), ids.end(), size_t{0});
  std::stable_sort(ids.begin(), ids.end(), [&](size_t i, size_t j) {
    const double a = order.key(buffers[i]), b = order.key(buffers[j]);
    return a != b ? a > b : buffers[i].lower < buffers[j].lower;
  });
  return ids;
}

/// A free place; the last one has no end.
struct Gap {
  uint64_t begin, end;
};

/// The free places during b's life that hold it, from the bottom up. `placed` is sorted by offset.
std::vector<Gap> find_gaps(const std::vector<Buffer>& buffers, const std::vector<uint64_t>& offsets,
                           const std::vector<size_t>& placed, const Buffer& b) {
  std::vector<Gap> gaps;
  uint64_t floor = 0;
  for (const size_t id : placed) {
    const Buffer& other = buffers[id];
    if (other.upper <= b.lower || b.upper <= other.lower) continue;
    if (offsets[id] >= floor && offsets[id] - floor >= b.size) gaps.push_back({floor, offsets[id]});
    floor = std::max(floor, offsets[id] + other.size);
  }
  gaps.push_back({floor, std::numeric_limits<uint64_t>::max()});
  return gaps;
}

uint64_t choose(const std::vector<Gap>& gaps, uint64_t size, uint64_t bound, Fit fit, bool from_top) {
  if (fit == Fit::kBest) {
    const auto smaller = [](const Gap& a, const Gap& b) { return a.end - a.begin < b.end - b.begin; };
    return std::min_element(gaps.begin(), gaps.end(), smaller)->begin;
  }
  if (fit == Fit::kEnds && from_top) {
    for (auto gap = gaps.rbegin(); gap != gaps.rend(); ++gap) {
      const uint64_t top = std::min(gap->end, bound);
      if (top >= size && top - size >= gap->begin) return top - size;
    }
  }
  return gaps.front().begin;
}

uint64_t place(const std::vector<Buffer>& buffers, const std::vector<size_t>& order, uint64_t bound, Fit fit,
               std::vector<uint64_t>* offsets) {
  std::vector<size_t> placed;
  placed.reserve(buffers.size());
  uint64_t peak = 0;
  for (const size_t id : order) {
    const uint64_t size = buffers[id].size;
    if (size == 0) continue;
    const uint64_t at =
        choose(find_gaps(buffers, *offsets, placed, buffers[id]), size, bound, fit, placed.size() % 2 == 1);
    (*offsets)[id] = at;
    peak = std::max(peak, at + size);
    const auto where = std::upper_bound(placed.begin(), placed.end(), at,
                                        [&](uint64_t value, size_t other) { return value < (*offsets)[other]; });
    placed.insert(where, id);
  }
  return peak;
}

uint64_t most_alive(const std::vector<Buffer>& buffers) {
  struct Event {
    int64_t time;
    bool starts;
    uint64_t size;
  };
  std::vector<Event> events;
  for (const Buffer& b : buffers) {
    events.push_back({b.lower, true, b.size});
    events.push_back({b.upper, false, b.size});
  }
  std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.time != b.time ? a.time < b.time : a.starts < b.starts;  // half-open: what ends makes room first
  });
  uint64_t alive = 0, most = 0;
  for (const Event& e : events) {
    alive = e.starts ? alive + e.size : alive - e.size;
    most = std::max(most, alive);
  }
  return most;
}

}  // namespace

Status plan_memory(const std::vector<Buffer>& buffers, uint64_t alignment, MemoryPlan* plan,
                   const SearchLimits& limits) {
  if (alignment == 0 || alignment > kMaxTotal) {
    return {Code::kValue, "plan_memory: alignment must be between 1 and 2^62, got " + std::to_string(alignment)};
  }
  if (!(limits.seconds > 0)) {
    return {Code::kValue, "plan_memory: seconds must be greater than 0, got " + std::to_string(limits.seconds)};
  }
  std::vector<Buffer> aligned = buffers;
  uint64_t total = 0;
  for (size_t i = 0; i < buffers.size(); ++i) {
    const Buffer& b = buffers[i];
    if (b.lower >= b.upper) {
      return {Code::kValue, "plan_memory: buffer " + std::to_string(i) + " lives in [" + std::to_string(b.lower) +
                                ", " + std::to_string(b.upper) + "); upper must be greater than lower"};
    }
    const uint64_t padding = (alignment - b.size % alignment) % alignment;
    if (b.size > kMaxTotal || padding > kMaxTotal - b.size || b.size + padding > kMaxTotal - total) {
      return {Code::kValue, "plan_memory: the buffers' total size must be at most 2^62 bytes; buffer " +
                                std::to_string(i) + " of " + std::to_string(b.size) + " bytes passes it"};
    }
    aligned[i].size = b.size + padding;
    total += aligned[i].size;
  }

  MemoryPlan best;
  best.lower_bound = most_alive(aligned);
  best.peak = std::numeric_limits<uint64_t>::max();
  std::vector<uint64_t> offsets(buffers.size(), 0);
  for (const Order& order : kOrders) {
    const std::vector<size_t> ids = sorted_by(order, aligned);
    for (const Fit fit : {Fit::kBest, Fit::kFirst, Fit::kEnds}) {
      const uint64_t peak = place(aligned, ids, best.lower_bound, fit, &offsets);
      if (peak < best.peak) {
        best.offsets = offsets;
        best.peak = peak;
        best.method = std::string(order.name) + ", " + kFitNames[static_cast<int>(fit)];
      }
      if (best.peak == best.lower_bound) break;
    }
    if (best.peak == best.lower_bound) break;
  }
  best.greedy_peak = best.peak;
  best.least_peak = best.lower_bound;
  if (best.peak > best.lower_bound) EK_RETURN_IF_ERROR(improve_plan(aligned, alignment, limits, &best));
  *plan = std::move(best);
  return {};
}

}  // namespace ek
