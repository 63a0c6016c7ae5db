// Items picked along each axis by a table: Pad, Slice, Tile, Expand, nearest Resize, Gather by constants.
#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "cpu/machine.h"
#include "elementwise/item.h"
#include "elementwise/moves.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kTaskBytes = 65536;
/// What one core moves in a microsecond.
constexpr double kBytesPerUs = 8000;
/// Runs that are shorter on average cost more as calls than entry by entry.
constexpr size_t kRunBytes = 48;
/// So do runs of one block that has a size of its own.
constexpr size_t kBlockBytes = 64;

bool is_identity(const int32_t* table, size_t side, size_t x_side) {
  if (side != x_side) return false;
  for (size_t i = 0; i < side; ++i) {
    if (table[i] != static_cast<int32_t>(i)) return false;
  }
  return true;
}

/// Pairs of the first place and the length of each run of fillers, or of places that follow each other.
size_t find_runs(const int32_t* table, size_t side, int32_t* runs) {
  size_t count = 0;
  for (size_t i = 0; i < side; ++i) {
    int32_t* const last = runs + 2 * count - 2;
    if (count > 0 && (table[i] < 0 ? last[0] < 0 : last[0] >= 0 && table[i] == last[0] + last[1])) {
      ++last[1];
      continue;
    }
    runs[2 * count] = table[i], runs[2 * count + 1] = 1;
    ++count;
  }
  return count;
}

/// How often each place of a table comes, where that is more than once and the same for all, and they follow each
/// other; else 0.
size_t repeats(const int32_t* table, size_t side) {
  size_t times = 1;
  while (times < side && table[times] == table[0]) ++times;
  if (times == 1 || table[0] < 0 || side % times != 0) return 0;
  for (size_t i = 0; i < side; ++i) {
    if (table[i] != table[0] + static_cast<int32_t>(i / times)) return 0;
  }
  return times;
}

/// Fills memory with an item, over and over.
void fill(uint8_t* y, size_t bytes, uint64_t filler, size_t item) {
  if (bytes <= sizeof filler) {
    for (size_t i = 0; i < bytes; ++i) y[i] = static_cast<uint8_t>(filler >> 8 * (i % item));
    return;
  }
  const auto low = static_cast<uint8_t>(filler);
  const uint64_t all = low * 0x0101010101010101u;
  if (std::memcmp(&all, &filler, item) == 0) {
    std::memset(y, low, bytes);
    return;
  }
  for (size_t i = 0; i < bytes; i += item) std::memcpy(y + i, &filler, item);
}

/// So many more of the `bytes` at y behind them, by doubling what is there.
void repeat(uint8_t* y, size_t bytes, size_t more) {
  for (size_t done = 1; done <= more; done *= 2) {
    std::memcpy(y + done * bytes, y, std::min(done, more + 1 - done) * bytes);
  }
}

template <typename Move>
void line_by_entry(const PickArgs& args, const PickPlan& plan, const Move& block, const uint8_t* x, uint8_t* y) {
  const size_t bytes = block.bytes(), count = plan.count;
  const int32_t* const line = plan.line;
  for (size_t i = 0; i < count; ++i, y += bytes) {
    if (line[i] < 0) {
      fill(y, bytes, args.filler, args.item);
    } else {
      block.copy(y, x + static_cast<size_t>(line[i]) * bytes);
    }
  }
}

template <typename Move>
void line_by_repeats(const PickPlan& plan, const Move& block, const uint8_t* x, uint8_t* y) {
  const size_t bytes = block.bytes(), times = plan.times, count = plan.count;
  x += static_cast<size_t>(plan.line[0]) * bytes;
  if (times == 2) {
    for (size_t i = 0; i < count; ++i, x += bytes, y += 2 * bytes) {
      block.copy(y, x);
      block.copy(y + bytes, x);
    }
    return;
  }
  for (size_t i = 0; i < count; ++i, x += bytes, y += times * bytes) {
    block.copy(y, x);
    repeat(y, bytes, times - 1);
  }
}

void line_by_runs(const PickArgs& args, const PickPlan& plan, const uint8_t* x, uint8_t* y) {
  for (size_t i = 0; i < plan.count; ++i) {
    const int32_t from = plan.line[2 * i];
    const size_t bytes = static_cast<size_t>(plan.line[2 * i + 1]) * plan.block;
    if (from < 0) {
      fill(y, bytes, args.filler, args.item);
    } else {
      std::memcpy(y, x + static_cast<size_t>(from) * plan.block, bytes);
    }
    y += bytes;
  }
}

/// Lines [begin, end) of y. Those that repeat the one before are copied from there, where it is still in the cache.
template <typename Move>
void pick_lines(const PickArgs& args, const PickPlan& plan, size_t begin, size_t end, const Move& block) {
  std::array<size_t, kMoveAxes> at{};
  size_t rest = begin;
  for (size_t axis = plan.outer_axes; axis-- > 0;) {
    at[axis] = rest % plan.outer[axis].side;
    rest /= plan.outer[axis].side;
  }
  uint8_t* y = args.y + begin * plan.line_bytes;
  for (size_t line = begin; line < end; ++line, y += plan.line_bytes) {
    const uint8_t* x = args.x;
    for (size_t axis = 0; axis < plan.outer_axes && x != nullptr; ++axis) {
      const int32_t place = plan.outer[axis].table[at[axis]];
      x = place < 0 ? nullptr : x + static_cast<size_t>(place) * plan.outer[axis].step;
    }
    if (x == nullptr) {
      fill(y, plan.line_bytes, args.filler, args.item);
    } else if (plan.kind == PickPlan::Line::kRepeats) {
      line_by_repeats(plan, block, x, y);
    } else if (plan.kind == PickPlan::Line::kEntries) {
      line_by_entry(args, plan, block, x, y);
    } else {
      line_by_runs(args, plan, x, y);
    }
    if (plan.outer_axes == 0) continue;
    size_t& place = at[plan.outer_axes - 1];
    const PickPlan::Axis& around = plan.outer[plan.outer_axes - 1];
    size_t more = 0;
    while (line + more + 1 < end && place + 1 < around.side && around.table[place + 1] == around.table[place]) {
      ++place, ++more;
    }
    repeat(y, plan.line_bytes, more);
    line += more;
    y += more * plan.line_bytes;
    for (size_t axis = plan.outer_axes; axis-- > 0 && ++at[axis] == plan.outer[axis].side;) at[axis] = 0;
  }
}

}  // namespace

PickPlan plan_pick(const PickArgs& args, int32_t* runs) {
  PickPlan plan;
  plan.block = args.item;
  std::array<const int32_t*, kMoveAxes> tables{};
  const int32_t* table = args.tables;
  for (size_t axis = 0; axis < kMoveAxes; ++axis) {
    tables[axis] = table;
    table += args.y_shape[axis];
  }
  size_t axis = kMoveAxes - 1;
  for (; axis > 0 && is_identity(tables[axis], args.y_shape[axis], args.x_shape[axis]); --axis) {
    plan.block *= args.x_shape[axis];
  }
  const size_t side = args.y_shape[axis];
  plan.line_bytes = side * plan.block;
  plan.count = find_runs(tables[axis], side, runs);
  const bool short_runs = plan.line_bytes < plan.count * kRunBytes;
  if (short_runs || (side < 2 * plan.count && plan.block <= kBlockBytes)) {
    plan.times = repeats(tables[axis], side);
    plan.kind = plan.times == 0 ? PickPlan::Line::kEntries : PickPlan::Line::kRepeats;
    plan.count = plan.times == 0 ? side : side / plan.times;
  }
  plan.line = plan.kind == PickPlan::Line::kRuns ? runs : tables[axis];
  size_t step = plan.block * args.x_shape[axis];
  std::array<PickPlan::Axis, kMoveAxes> around{};
  while (axis-- > 0) {
    around[plan.outer_axes++] = {args.y_shape[axis], step, tables[axis]};
    plan.lines *= args.y_shape[axis];
    step *= args.x_shape[axis];
  }
  std::reverse_copy(around.begin(), around.begin() + plan.outer_axes, plan.outer.begin());
  return plan;
}

void pick(const Runtime& rt, const PickArgs& args, const PickPlan& plan) {
  const double us = static_cast<double>(plan.lines) * static_cast<double>(plan.line_bytes) / kBytesPerUs;
  const size_t per_task = std::max<size_t>(1, kTaskBytes / std::max<size_t>(1, plan.line_bytes));
  with_block(plan.block, [&](const auto& block) {
    parallel_for(ceil_div(plan.lines, per_task), worth_a_thread(us) ? rt.threads : 1, [&](size_t task) {
      pick_lines(args, plan, task * per_task, std::min(plan.lines, (task + 1) * per_task), block);
    });
  });
}

}  // namespace ek
