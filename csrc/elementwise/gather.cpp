// Items where indices of another tensor say. An index that leaves its axis is not followed.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/checked.h"
#include "cpu/machine.h"
#include "elementwise/item.h"
#include "elementwise/moves.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kTaskBytes = 65536;
/// Bytes that count as moved for each index, and what one core moves in a microsecond.
constexpr size_t kIndexBytes = 8;
constexpr double kBytesPerUs = 5000;

void note_lowest(std::atomic<size_t>& lowest, size_t found) {
  size_t before = lowest.load(std::memory_order_relaxed);
  while (found < before && !lowest.compare_exchange_weak(before, found, std::memory_order_relaxed)) {
  }
}

/// body(pointer to the indices, as what they are).
template <typename Body>
void with_index(const Indices& index, Body&& body) {
  if (index.wide) return body(reinterpret_cast<const int64_t*>(index.at));
  body(reinterpret_cast<const int32_t*>(index.at));
}

/// body(begin, end) over `count` blocks of so many bytes, each with an index.
template <typename Body>
void for_each_part(const Runtime& rt, size_t count, size_t bytes, Body&& body) {
  const size_t each = bytes + kIndexBytes, per_task = std::max<size_t>(1, kTaskBytes / each);
  const double us = static_cast<double>(count) * static_cast<double>(each) / kBytesPerUs;
  parallel_for(ceil_div(count, per_task), worth_a_thread(us) ? rt.threads : 1,
               [&](size_t task) { body(task * per_task, std::min(count, (task + 1) * per_task)); });
}

}  // namespace

size_t gather(const Runtime& rt, const GatherArgs& args) {
  std::atomic<size_t> outside{kAllInside};
  with_index(args.index, [&](const auto* index) {
    with_block(args.inner, [&](auto block) {
      for_each_part(rt, args.outer * args.count, args.inner, [&, index, block](size_t begin, size_t end) {
        const size_t n = args.n, count = args.count;  // what is written might be them, for all that a compiler knows
        size_t i = begin % count;
        const uint8_t* from = args.data + begin / count * n * block.bytes();
        uint8_t* to = args.y + begin * block.bytes();
        for (size_t all = begin; all < end; ++all, to += block.bytes()) {
          const size_t place = place_of(index[i], n);
          if (place < n) {
            block.copy(to, from + place * block.bytes());
          } else {
            block.clear(to);
            note_lowest(outside, i);
          }
          if (++i == count) i = 0, from += n * block.bytes();
        }
      });
    });
  });
  return outside;
}

size_t gather_elements(const Runtime& rt, const GatherElementsArgs& args) {
  const MoveShape& shape = args.shape;
  const size_t side = shape[kMoveAxes - 1];
  size_t lines = 1;
  for (size_t axis = 0; axis + 1 < kMoveAxes; ++axis) lines *= shape[axis];
  std::atomic<size_t> outside{kAllInside};
  with_index(args.index, [&](const auto* index) {
    with_block(args.item, [&](auto block) {
      for_each_part(rt, lines, side * (args.item + kIndexBytes), [&, index, block, side](size_t begin, size_t end) {
        const size_t n = args.n, step = args.x_step[kMoveAxes - 1], axis_step = args.axis_step;
        const uint8_t* const data = args.data;
        for (size_t line = begin; line < end; ++line) {
          size_t from = 0, rest = line;
          for (size_t axis = kMoveAxes - 1; axis-- > 0 && rest != 0; rest /= shape[axis]) {
            from += rest % shape[axis] * args.x_step[axis];
          }
          uint8_t* to = args.y + line * side * block.bytes();
          const auto* const at = index + line * side;
          for (size_t i = 0; i < side; ++i, from += step, to += block.bytes()) {
            const size_t place = place_of(at[i], n);
            if (place < n) {
              block.copy(to, data + (from + place * axis_step) * block.bytes());
            } else {
              block.clear(to);
              note_lowest(outside, line * side + i);
            }
          }
        }
      });
    });
  });
  return outside;
}

size_t gather_nd(const Runtime& rt, const GatherNdArgs& args) {
  size_t batch_slices = 1;
  for (size_t k = 0; k < args.depth; ++k) batch_slices *= args.sides[k];
  std::atomic<size_t> outside{kAllInside};
  with_index(args.index, [&](const auto* index) {
    with_block(args.slice, [&](auto block) {
      const size_t each = args.slice + args.depth * kIndexBytes;
      for_each_part(rt, args.batches * args.count, each, [&, index, block](size_t begin, size_t end) {
        const size_t depth = args.depth, count = args.count;
        const MoveShape sides = args.sides;
        const uint8_t* const data = args.data;
        uint8_t* to = args.y + begin * block.bytes();
        for (size_t i = begin; i < end; ++i, to += block.bytes()) {
          size_t at = 0, k = 0;
          for (; k < depth; ++k) {
            const size_t place = place_of(index[i * depth + k], sides[k]);
            if (place >= sides[k]) break;
            at = at * sides[k] + place;
          }
          if (k == depth) {
            block.copy(to, data + (i / count * batch_slices + at) * block.bytes());
          } else {
            block.clear(to);
            note_lowest(outside, i * depth + k);
          }
        }
      });
    });
  });
  return outside;
}

}  // namespace ek
