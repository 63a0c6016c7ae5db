// The independent check of a memory plan. A plan can come out of a file, so nothing here trusts it.
#include <algorithm>
#include <map>

#include "memory/planner.h"

namespace ek {
namespace {

struct Event {
  int64_t time;
  bool starts;
  size_t id;
};

std::string place_of(const std::vector<Buffer>& buffers, const std::vector<uint64_t>& offsets, size_t id) {
  const Buffer& b = buffers[id];
  return "buffer " + std::to_string(id) + " (bytes [" + std::to_string(offsets[id]) + ", " +
         std::to_string(offsets[id] + b.size) + "), time [" + std::to_string(b.lower) + ", " + std::to_string(b.upper) +
         "))";
}

Status overlap(const std::vector<Buffer>& buffers, const std::vector<uint64_t>& offsets, size_t a, size_t b) {
  return {Code::kValue, "check_plan: " + place_of(buffers, offsets, std::min(a, b)) + " and " +
                            place_of(buffers, offsets, std::max(a, b)) + " overlap in space and time"};
}

}  // namespace

Status check_plan(const std::vector<Buffer>& buffers, const std::vector<uint64_t>& offsets, uint64_t alignment,
                  uint64_t capacity) {
  if (offsets.size() != buffers.size()) {
    return {Code::kValue, "check_plan: the plan has " + std::to_string(offsets.size()) + " offsets for " +
                              std::to_string(buffers.size()) + " buffers"};
  }
  std::vector<Event> events;
  for (size_t i = 0; i < buffers.size(); ++i) {
    const Buffer& b = buffers[i];
    if (b.lower > b.upper) {
      return {Code::kValue, "check_plan: buffer " + std::to_string(i) + " ends before it starts"};
    }
    if (alignment == 0 || offsets[i] % alignment != 0) {
      return {Code::kValue, "check_plan: buffer " + std::to_string(i) + " lies at offset " +
                                std::to_string(offsets[i]) + ", which is no multiple of " + std::to_string(alignment)};
    }
    if (b.size > capacity || offsets[i] > capacity - b.size) {
      return {Code::kValue, "check_plan: buffer " + std::to_string(i) + " of " + std::to_string(b.size) +
                                " bytes at offset " + std::to_string(offsets[i]) + " leaves the arena of " +
                                std::to_string(capacity) + " bytes"};
    }
    if (b.size == 0 || b.lower == b.upper) continue;
    events.push_back({b.lower, true, i});
    events.push_back({b.upper, false, i});
  }
  std::sort(events.begin(), events.end(),
            [](const Event& a, const Event& b) { return a.time != b.time ? a.time < b.time : a.starts < b.starts; });

  // The live buffers by offset. They are disjoint, so that a newcomer needs to look at its two neighbors only.
  std::map<uint64_t, size_t> live;
  for (const Event& e : events) {
    const uint64_t begin = offsets[e.id];
    if (!e.starts) {
      live.erase(begin);
      continue;
    }
    const auto after = live.lower_bound(begin);
    if (after != live.end() && after->first < begin + buffers[e.id].size) {
      return overlap(buffers, offsets, e.id, after->second);
    }
    if (after != live.begin()) {
      const size_t before = std::prev(after)->second;
      if (offsets[before] + buffers[before].size > begin) return overlap(buffers, offsets, e.id, before);
    }
    live.emplace(begin, e.id);
  }
  return {};
}

}  // namespace ek
