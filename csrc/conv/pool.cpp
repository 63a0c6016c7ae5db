#include "threads/pool.h"

#include <algorithm>

#include "base/checked.h"
#include "conv/conv.h"
#include "conv/window.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;

size_t task_count(const Runtime& rt, const PoolArgs& args) {
  const size_t wanted = rt.threads <= 1 ? 1 : 4 * static_cast<size_t>(rt.threads);
  return std::max<size_t>(1, std::min(wanted, args.window.pixels()));
}

/// Per task: pointers to the pixels of one window, and one pixel of sums.
size_t slot_bytes(const PoolArgs& args) {
  return round_up(args.window.taps() * sizeof(uint8_t*), kLine) + round_up(args.channels * sizeof(int32_t), kLine);
}

/// Calls pixel(out_pixel, rows, num_rows, sums) for every output pixel with the input pixels its window covers.
template <typename Pixel>
void for_each_window(const Runtime& rt, const PoolArgs& args, uint8_t* scratch, Row row, Pixel&& pixel) {
  const size_t pixels = args.window.pixels(), taps = args.window.taps(), tasks = task_count(rt, args);
  const bool small = pixels * taps * args.channels < 100'000;
  parallel_for(tasks, small ? 1 : rt.threads, [&](size_t task) {
    uint8_t* slot = scratch + task * slot_bytes(args);
    const uint8_t** rows = reinterpret_cast<const uint8_t**>(slot);
    int32_t* sums = reinterpret_cast<int32_t*>(slot + round_up(taps * sizeof(uint8_t*), kLine));
    for (size_t p = pixels * task / tasks; p < pixels * (task + 1) / tasks; ++p) {
      size_t covered = 0;
      for_each_tap(args.window, p, [&](size_t, bool inside, size_t input) {
        if (inside) rows[covered++] = args.x + input * args.channels;
      });
      pixel(p, rows, covered, sums);
    }
    count_row(rt, row);
  });
}

}  // namespace

size_t pool_scratch_bytes(const Runtime& rt, const PoolArgs& args) { return task_count(rt, args) * slot_bytes(args); }

void max_pool(const Runtime& rt, const PoolArgs& args, uint8_t* scratch) {
  for_each_window(rt, args, scratch, Row::kMaxRows, [&](size_t p, const uint8_t** rows, size_t n, int32_t*) {
    rt.kernels->max_rows(rows, n, args.channels, args.x_q.sign, args.y + p * args.channels);
  });
}

void average_pool(const Runtime& rt, const PoolArgs& args, uint8_t* scratch) {
  const int32_t low = args.y_q.sign == Sign::kU8 ? 0 : -128;
  const float lo = static_cast<float>(low - args.y_q.zero_point),
              hi = static_cast<float>(low + 255 - args.y_q.zero_point);
  for_each_window(rt, args, scratch, Row::kSumRows, [&](size_t p, const uint8_t** rows, size_t n, int32_t* sums) {
    rt.kernels->sum_rows(rows, n, args.channels, args.x_q.sign, sums);
    const int32_t zeros = static_cast<int32_t>(n) * args.x_q.zero_point;
    for (size_t c = 0; c < args.channels; ++c) sums[c] -= zeros;
    const size_t count = args.count_include_pad ? args.window.taps() : n;
    const double multiplier = double{args.x_q.scale} / (double{args.y_q.scale} * static_cast<double>(count));
    rt.kernels->requantize(sums, args.channels, static_cast<float>(multiplier), lo, hi, args.y_q.zero_point,
                           args.y + p * args.channels);
  });
  count_row(rt, Row::kRequantize);
}

}  // namespace ek
