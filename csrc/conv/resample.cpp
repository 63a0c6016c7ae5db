#include "conv/resample.h"

#include <algorithm>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Floats that make a task.
constexpr size_t kTaskFloats = 16384;
/// Multiply-adds of one core in a microsecond, with vectors of their own and from a table.
constexpr double kRowMacsPerUs = 8000, kLaneMacsPerUs = 1000;

}  // namespace

bool resamples_lanes(size_t inner) { return inner < kStrip; }

void resample_places(const ResampleArgs& args, int32_t* index, float* weight) {
  for (size_t t = 0; t < args.taps; ++t) {
    for (size_t j = 0; j < args.m; ++j) {
      const size_t from = static_cast<size_t>(args.index[j * args.taps + t]) * args.inner;
      for (size_t i = 0; i < args.inner; ++i) {
        *index++ = static_cast<int32_t>(from + i);
        *weight++ = args.weight[j * args.taps + t];
      }
    }
  }
}

void resample(const Runtime& rt, const ResampleArgs& args) {
  const bool lanes = resamples_lanes(args.inner);
  const size_t rows = lanes ? args.outer : args.outer * args.m, floats = lanes ? args.m * args.inner : args.inner;
  const double macs = static_cast<double>(rows) * static_cast<double>(floats * args.taps);
  const int threads = worth_a_thread(macs / (lanes ? kLaneMacsPerUs : kRowMacsPerUs)) ? rt.threads : 1;
  const size_t per_task = std::max<size_t>(1, kTaskFloats / (floats * args.taps + 1));
  parallel_for(ceil_div(rows, per_task), threads, [&](size_t task) {
    const size_t end = std::min(rows, (task + 1) * per_task);
    for (size_t row = task * per_task; row < end; ++row) {
      if (lanes) {
        rt.kernels->resample_lanes(args.x + row * args.n * args.inner, floats, args.index, args.weight, args.taps,
                                   args.y + row * floats);
        continue;
      }
      const size_t image = row / args.m, at = (row - image * args.m) * args.taps;
      rt.kernels->resample_row(args.x + image * args.n * args.inner, floats, args.index + at, args.weight + at,
                               args.taps, args.y + row * floats);
    }
  });
}

}  // namespace ek
