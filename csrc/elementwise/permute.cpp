// Axes in another order: those that stay together are one, and two of what is left are turned in tiles.
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
/// A tile: whole cache lines on both sides, which stay in L1; longer where the other side is short.
constexpr size_t kTile = 64, kLongTile = 1024;
/// What one core turns in a microsecond.
constexpr double kBytesPerUs = 8000;

/// An axis of y: items of x and y from one place to the next.
struct Axis {
  size_t side, x_step, y_step;
};

/// The axes of y, outermost first, without those of one place and with those that follow each other in x as one.
struct Axes {
  std::array<Axis, kMoveAxes> axis{};
  size_t count = 0;
};

Axes axes_of(size_t rank, const size_t* x_shape, const size_t* perm) {
  size_t x_step[kMoveAxes];
  size_t step = 1;
  for (size_t i = rank; i-- > 0; step *= x_shape[i]) x_step[i] = step;
  Axes axes;
  for (size_t i = 0; i < rank; ++i) {
    const Axis next = {x_shape[perm[i]], x_step[perm[i]], 0};
    if (next.side == 1) continue;
    Axis* const last = axes.count == 0 ? nullptr : &axes.axis[axes.count - 1];
    if (last != nullptr && last->x_step == next.side * next.x_step) {
      *last = {last->side * next.side, next.x_step, 0};
    } else {
      axes.axis[axes.count++] = next;
    }
  }
  step = 1;
  for (size_t i = axes.count; i-- > 0; step *= axes.axis[i].side) axes.axis[i].y_step = step;
  return axes;
}

/// Where the numbered one of all places along some axes lies, in items.
struct Place {
  size_t x = 0, y = 0;
};
Place place_of(const Axes& axes, size_t number) {
  Place place;
  for (size_t i = axes.count; i-- > 0;) {
    const size_t at = number % axes.axis[i].side;
    number /= axes.axis[i].side;
    place.x += at * axes.axis[i].x_step;
    place.y += at * axes.axis[i].y_step;
  }
  return place;
}

size_t places(const Axes& axes) {
  size_t all = 1;
  for (size_t i = 0; i < axes.count; ++i) all *= axes.axis[i].side;
  return all;
}

/// Blocks of x_step[last] = 1 stay whole: lines of them.
void move_blocks(Axes axes, const uint8_t* x, size_t item, int threads, uint8_t* y) {
  const size_t bytes = axes.axis[axes.count - 1].side * item;
  --axes.count;
  const Axis line = axes.count == 0 ? Axis{1, 0, 0} : axes.axis[--axes.count];
  const size_t lines = places(axes), per_task = std::max<size_t>(1, kTaskBytes / (line.side * bytes));
  with_block(bytes, [&](const auto& block) {
    parallel_for(ceil_div(lines, per_task), threads, [&](size_t task) {
      for (size_t i = task * per_task; i < std::min(lines, (task + 1) * per_task); ++i) {
        const Place place = place_of(axes, i);
        const uint8_t* const from = x + place.x * item;
        uint8_t* const to = y + place.y * item;
        for (size_t j = 0; j < line.side; ++j) block.copy(to + j * bytes, from + j * line.x_step * item);
      }
    });
  });
}

/// y[c][r] = x[r][c], rows ldx and ldy items apart.
void turn_tile(const Runtime& rt, const uint8_t* x, size_t rows, size_t cols, size_t ldx, size_t item, uint8_t* y,
               size_t ldy) {
  if (item == 1) return rt.kernels->transpose(x, rows, cols, ldx, y, ldy);
  if (item == sizeof(uint32_t)) {
    return rt.kernels->transpose_words(reinterpret_cast<const uint32_t*>(x), rows, cols, ldx,
                                       reinterpret_cast<uint32_t*>(y), ldy);
  }
  with_block(item, [&](const auto& block) {
    for (size_t c = 0; c < cols; ++c) {
      for (size_t r = 0; r < rows; ++r) block.copy(y + (c * ldy + r) * item, x + (r * ldx + c) * item);
    }
  });
}

/// The last axis of y against that of x, tile by tile.
void turn(const Runtime& rt, const Axes& axes, const uint8_t* x, size_t item, int threads, uint8_t* y) {
  Axes around;
  Axis across{};
  const Axis down = axes.axis[axes.count - 1];
  for (size_t i = 0; i + 1 < axes.count; ++i) {
    if (axes.axis[i].x_step == 1) {
      across = axes.axis[i];
    } else {
      around.axis[around.count++] = axes.axis[i];
    }
  }
  const auto tile_beside = [](size_t other) {
    return other < kTile ? std::min(kLongTile, kTile * kTile / other) : kTile;
  };
  const size_t tile_rows = tile_beside(across.side), tile_cols = tile_beside(down.side);
  const size_t strips = ceil_div(down.side, tile_rows), columns = ceil_div(across.side, tile_cols);
  const size_t each = strips * columns;
  parallel_for(places(around) * each, threads, [&](size_t task) {
    const Place place = place_of(around, task / each);
    const size_t tile = task % each;
    // Threads part the longer axis.
    const size_t r = (down.side > across.side ? tile / columns : tile % strips) * tile_rows;
    const size_t c = (down.side > across.side ? tile % columns : tile / strips) * tile_cols;
    turn_tile(rt, x + (place.x + r * down.x_step + c) * item, std::min(tile_rows, down.side - r),
              std::min(tile_cols, across.side - c), down.x_step, item, y + (place.y + c * across.y_step + r) * item,
              across.y_step);
  });
}

}  // namespace

void permute(const Runtime& rt, const uint8_t* x, size_t rank, const size_t* x_shape, const size_t* perm, size_t item,
             uint8_t* y) {
  Axes axes = axes_of(rank, x_shape, perm);
  if (axes.count == 0) axes.axis[axes.count++] = {1, 1, 1};
  const double us = static_cast<double>(places(axes) * item) / kBytesPerUs;
  const int threads = worth_a_thread(us) ? rt.threads : 1;
  const bool last_stays = axes.axis[axes.count - 1].x_step == 1;
  last_stays ? move_blocks(axes, x, item, threads, y) : turn(rt, axes, x, item, threads, y);
}

}  // namespace ek
