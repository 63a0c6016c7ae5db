#include "conv/resample.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Floats that make a task.
constexpr size_t kTaskFloats = 16384;
/// Multiply-adds of one core in a microsecond, with vectors of their own and from a table.
constexpr double kRowMacsPerUs = 8000, kLaneMacsPerUs = 1000;
/// Neighbors and floats of each that are dequantized at once.
constexpr size_t kMostTaps = 16, kChunk = 256;

/// One row of the result, some floats at a time: neighbors are dequantized before, or what comes out is quantized.
void resample_codes(const Kernels& kernels, const ResampleArgs& args, size_t image, const int32_t* index,
                    const float* weight, size_t row) {
  float x[kMostTaps * kChunk], y[kChunk];
  int32_t in_turn[kMostTaps];
  for (size_t t = 0; t < args.taps; ++t) in_turn[t] = static_cast<int32_t>(t);
  for (size_t at = 0; at < args.inner; at += kChunk) {
    const size_t n = std::min(kChunk, args.inner - at);
    const float* from = static_cast<const float*>(args.x) + image * args.n * args.inner;
    const int32_t* places = index;
    if (args.x_codes != nullptr || n < args.inner) {
      for (size_t t = 0; t < args.taps; ++t) {
        const size_t first = (image * args.n + static_cast<size_t>(index[t])) * args.inner + at;
        if (args.x_codes != nullptr) {
          kernels.dequantize(static_cast<const uint8_t*>(args.x) + first, n, *args.x_codes, x + t * n);
        } else {
          std::memcpy(x + t * n, static_cast<const float*>(args.x) + first, n * sizeof(float));
        }
      }
      from = x, places = in_turn;
    }
    const size_t to = row * args.inner + at;
    if (args.y_codes == nullptr) {
      kernels.resample_row(from, n, places, weight, args.taps, static_cast<float*>(args.y) + to);
      continue;
    }
    kernels.resample_row(from, n, places, weight, args.taps, y);
    kernels.quantize(y, n, *args.y_codes, static_cast<uint8_t*>(args.y) + to);
  }
}

}  // namespace

bool resamples_codes(size_t inner, size_t taps) { return !resamples_lanes(inner) && taps <= kMostTaps; }

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
  const bool lanes = resamples_lanes(args.inner), codes = args.x_codes != nullptr || args.y_codes != nullptr;
  const float* const x = static_cast<const float*>(args.x);
  float* const y = static_cast<float*>(args.y);
  const size_t rows = lanes ? args.outer : args.outer * args.m, floats = lanes ? args.m * args.inner : args.inner;
  const double macs = static_cast<double>(rows) * static_cast<double>(floats * args.taps);
  const int threads = worth_a_thread(macs / (lanes ? kLaneMacsPerUs : kRowMacsPerUs)) ? rt.threads : 1;
  const size_t per_task = std::max<size_t>(1, kTaskFloats / (floats * args.taps + 1));
  parallel_for(ceil_div(rows, per_task), threads, [&](size_t task) {
    const size_t end = std::min(rows, (task + 1) * per_task);
    for (size_t row = task * per_task; row < end; ++row) {
      if (lanes) {
        rt.kernels->resample_lanes(x + row * args.n * args.inner, floats, args.index, args.weight, args.taps,
                                   y + row * floats);
        continue;
      }
      const size_t image = row / args.m, at = (row - image * args.m) * args.taps;
      if (codes) {
        resample_codes(*rt.kernels, args, image, args.index + at, args.weight + at, row);
        continue;
      }
      rt.kernels->resample_row(x + image * args.n * args.inner, floats, args.index + at, args.weight + at, args.taps,
                               y + row * floats);
    }
  });
}

}  // namespace ek
