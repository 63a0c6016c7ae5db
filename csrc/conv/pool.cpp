#include "threads/pool.h"

#include <algorithm>

#include "base/checked.h"
#include "conv/conv.h"
#include "conv/source.h"

namespace ek {
namespace {

size_t task_count(const Runtime& rt, const PoolArgs& args) {
  const size_t wanted = rt.threads <= 1 ? 1 : 4 * static_cast<size_t>(rt.threads);
  return std::max<size_t>(1, std::min(wanted, args.window.batch * args.window.out_h));
}

/// Per task: pointers to the pixels of one window, and one pixel of sums.
size_t slot_bytes(const PoolArgs& args) {
  return round_up(args.window.taps() * sizeof(uint8_t*), kLine) + round_up(args.channels * sizeof(int32_t), kLine);
}

/// Calls pixel(out_pixel, rows, num_rows, sums) for every output pixel with the input pixels its window covers. Goes by
/// rows of the output, so that nothing is divided per pixel.
template <typename Pixel>
void for_each_window(const Runtime& rt, const PoolArgs& args, uint8_t* scratch, Pixel&& pixel) {
  const Window& w = args.window;
  const size_t lines = w.batch * w.out_h, taps = w.taps(), tasks = task_count(rt, args);
  const bool small = w.pixels() * taps * args.channels < 100'000;
  parallel_for(tasks, small ? 1 : rt.threads, [&](size_t task) {
    uint8_t* slot = scratch + task * slot_bytes(args);
    const uint8_t** rows = reinterpret_cast<const uint8_t**>(slot);
    int32_t* sums = reinterpret_cast<int32_t*>(slot + round_up(taps * sizeof(uint8_t*), kLine));
    for (size_t line = lines * task / tasks; line < lines * (task + 1) / tasks; ++line) {
      const size_t batch = line / w.out_h;
      // Coordinates above the padding are negative and, as size_t, past every size.
      const size_t y0 = (line - batch * w.out_h) * w.stride_h - w.pad_top;
      for (size_t out_x = 0; out_x < w.out_w; ++out_x) {
        const size_t x0 = out_x * w.stride_w - w.pad_left;
        size_t covered = 0;
        for (size_t ky = 0, y = y0; ky < w.kernel_h; ++ky, y += w.dilation_h) {
          if (y >= w.in_h) continue;
          const uint8_t* image_line = args.x + (batch * w.in_h + y) * w.in_w * args.channels;
          for (size_t kx = 0, x = x0; kx < w.kernel_w; ++kx, x += w.dilation_w) {
            if (x < w.in_w) rows[covered++] = image_line + x * args.channels;
          }
        }
        pixel(line * w.out_w + out_x, rows, covered, sums);
      }
    }
  });
}

}  // namespace

size_t pool_scratch_bytes(const Runtime& rt, const PoolArgs& args) { return task_count(rt, args) * slot_bytes(args); }

void max_pool(const Runtime& rt, const PoolArgs& args, uint8_t* scratch) {
  for_each_window(rt, args, scratch, [&](size_t p, const uint8_t** rows, size_t n, int32_t*) {
    rt.kernels->max_rows(rows, n, args.channels, args.x_q.sign, args.y + p * args.channels);
  });
}

void average_pool(const Runtime& rt, const PoolArgs& args, uint8_t* scratch) {
  const int32_t low = args.y_q.sign == Sign::kU8 ? 0 : -128;
  const float lo = static_cast<float>(low - args.y_q.zero_point),
              hi = static_cast<float>(low + 255 - args.y_q.zero_point);
  for_each_window(rt, args, scratch, [&](size_t p, const uint8_t** rows, size_t n, int32_t* sums) {
    rt.kernels->sum_rows(rows, n, args.channels, args.x_q.sign, sums);
    const int32_t zeros = static_cast<int32_t>(n) * args.x_q.zero_point;
    for (size_t c = 0; c < args.channels; ++c) sums[c] -= zeros;
    const size_t count = args.count_include_pad ? args.window.taps() : n;
    const double multiplier = double{args.x_q.scale} / (double{args.y_q.scale} * static_cast<double>(count));
    rt.kernels->requantize(sums, args.channels, static_cast<float>(multiplier), lo, hi, args.y_q.zero_point,
                           args.y + p * args.channels);
  });
}

}  // namespace ek
