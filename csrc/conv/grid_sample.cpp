#include "conv/grid_sample.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kTaskFloats = 16384, kMostTaps = 4;
/// What one core does in a microsecond: multiply-adds, and points that it finds on the grid.
constexpr double kMacsPerUs = 4000, kPointsPerUs = 20;

/// One side of an image: pixels, and where its first and its last one end.
struct Side {
  float size, first, last;
  GridPadding padding;

  /// Mirrored at both ends as often as it takes.
  float reflected(float at) const {
    const float range = last - first;
    if (range <= 0) return first;
    const bool before = at < first;
    if (!before && !(at > last)) return at;
    const float beyond = before ? first - at : at - last, times = std::floor(beyond / range);
    const float rest = beyond - times * range;
    return (static_cast<int64_t>(times) % 2 == 0) == before ? first + rest : last - rest;
  }

  /// The pixel that stands at a whole place; -1 where there is none.
  int32_t pixel(float at) const {
    if (padding == GridPadding::kReflection) at = std::trunc(reflected(at));
    if (padding == GridPadding::kZeros && (at < 0 || at > size - 1)) return -1;
    return static_cast<int32_t>(std::min(std::max(at, 0.0f), size - 1));
  }
};

/// What lies around a place along one side.
struct Taps {
  size_t count;
  int32_t pixel[kMostTaps];
  float weight[kMostTaps];
};

/// The weight of a pixel less than one away, and of one less than two away: a = -0.75.
float near(float d) { return (1.25f * d - 2.25f) * d * d + 1.0f; }
float far(float d) { return ((-0.75f * d + 3.75f) * d - 6.0f) * d + 3.0f; }

Taps taps_of(const Side& side, GridMode mode, float at) {
  if (mode == GridMode::kNearest) return {1, {side.pixel(at)}, {1.0f}};
  const float below = std::floor(at), d = at - below;
  if (mode == GridMode::kLinear) return {2, {side.pixel(below), side.pixel(below + 1)}, {(below + 1) - at, d}};
  return {4,
          {side.pixel(below - 1), side.pixel(below), side.pixel(below + 1), side.pixel(below + 2)},
          {far(d + 1), near(d), near(1 - d), far(2 - d)}};
}

/// Where a number of the grid lies among the pixels. What is no number lies as far off as can be.
float place_of(float g, float size, bool align_corners) {
  const float at = align_corners ? (g + 1) / 2 * (size - 1) : ((g + 1) * size - 1) / 2;
  constexpr float kFar = static_cast<float>(kMostGridSide);
  return at > -kFar ? std::min(at, kFar) : -kFar;
}

}  // namespace

void grid_sample(const Runtime& rt, const GridSampleArgs& args) {
  const size_t side = args.mode == GridMode::kNearest ? 1 : args.mode == GridMode::kLinear ? 2 : 4;
  const size_t count = args.batch * args.points, each = side * side * args.channels;
  const double us = static_cast<double>(count) * (static_cast<double>(each) / kMacsPerUs + 1 / kPointsPerUs);
  const size_t per_task = std::max<size_t>(1, kTaskFloats / (each + 1));
  const auto side_of = [&](size_t size) {
    const float pixels = static_cast<float>(size);
    return args.align_corners ? Side{pixels, 0, pixels - 1, args.padding}
                              : Side{pixels, -0.5f, pixels - 0.5f, args.padding};
  };
  const Side across = side_of(args.width), down = side_of(args.height);
  parallel_for(ceil_div(count, per_task), worth_a_thread(us) ? rt.threads : 1, [&](size_t task) {
    for (size_t i = task * per_task; i < std::min(count, (task + 1) * per_task); ++i) {
      float x = place_of(args.grid[2 * i], across.size, args.align_corners);
      float y = place_of(args.grid[2 * i + 1], down.size, args.align_corners);
      if (args.mode == GridMode::kNearest) x = std::nearbyint(x), y = std::nearbyint(y);
      if (args.padding == GridPadding::kReflection) x = across.reflected(x), y = down.reflected(y);
      const Taps columns = taps_of(across, args.mode, x), rows = taps_of(down, args.mode, y);
      int32_t index[kMostTaps * kMostTaps];
      float weight[kMostTaps * kMostTaps];
      size_t taps = 0;
      for (size_t r = 0; r < rows.count; ++r) {
        for (size_t c = 0; c < columns.count; ++c) {
          if (rows.pixel[r] < 0 || columns.pixel[c] < 0) continue;
          index[taps] = rows.pixel[r] * static_cast<int32_t>(args.width) + columns.pixel[c];
          weight[taps++] = rows.weight[r] * columns.weight[c];
        }
      }
      const float* const image = args.x + i / args.points * args.height * args.width * args.channels;
      rt.kernels->resample_row(image, args.channels, index, weight, taps, args.y + i * args.channels);
    }
  });
}

}  // namespace ek
