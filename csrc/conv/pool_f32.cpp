#include "conv/pool_f32.h"

#include <algorithm>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Channels that one task takes at least where there are few lines.
constexpr size_t kTaskChannels = 64;
/// What one core adds or compares in a microsecond.
constexpr double kTapsPerUs = 8000;

/// Taps of a window along one axis that lie inside the image.
struct Inside {
  size_t first, count;  // of the image
};

Inside inside(const Window3& w, size_t axis, size_t out) {
  const size_t in = w.in[axis], dilation = w.dilation[axis], from = out * w.stride[axis];
  const size_t before = from < w.pad[axis] ? ceil_div(w.pad[axis] - from, dilation) : 0;
  const size_t first = from + before * dilation - w.pad[axis];
  if (before >= w.kernel[axis] || first >= in) return {0, 0};
  return {first, std::min(w.kernel[axis] - before, ceil_div(in - first, dilation))};
}

}  // namespace

void pool_f32(const Runtime& rt, const PoolF32Args& args) {
  const Window3& w = args.window;
  const size_t taps = w.taps(), width = w.out[2], lines = w.out_pixels() / width;
  const double work = static_cast<double>(lines * width) * static_cast<double>(taps * args.channels);
  const size_t threads = worth_a_thread(work / kTapsPerUs) ? static_cast<size_t>(rt.threads) : 1;
  const size_t most_parts = ceil_div(args.channels, kTaskChannels);
  const size_t parts = std::min(most_parts, ceil_div(threads, lines));
  const size_t tasks = std::min(lines, 4 * threads) * parts;
  parallel_for(tasks, static_cast<int>(threads), [&](size_t task) {
    const size_t share = task / parts, shares = tasks / parts, part = task % parts;
    const size_t c0 = most_parts * part / parts * kTaskChannels;
    const size_t channels = std::min(args.channels, most_parts * (part + 1) / parts * kTaskChannels) - c0;
    PoolBox box = {};
    for (size_t axis = 3, step = args.channels; axis-- > 0; step *= w.in[axis])
      box.step[axis] = w.dilation[axis] * step;
    for (size_t line = lines * share / shares; line < lines * (share + 1) / shares; ++line) {
      const OutRow out = out_row(w, line);
      const Inside z = inside(w, 0, out.d), y = inside(w, 1, out.h);
      const size_t row = ((out.batch * w.in[0] + z.first) * w.in[1] + y.first) * w.in[2];
      box.count[0] = z.count;
      box.count[1] = y.count;
      for (size_t column = 0; column < width; ++column) {
        const Inside x = inside(w, 2, column);
        box.count[2] = x.count;
        box.x = args.x + (row + x.first) * args.channels + c0;
        float* const to = args.y + (line * width + column) * args.channels + c0;
        if (args.power != 0) {
          rt.kernels->norm_box_f32(box, channels, args.power, to);
        } else if (args.average) {
          const size_t count = args.count_include_pad ? taps : z.count * y.count * x.count;
          rt.kernels->sum_box_f32(box, channels, static_cast<float>(count), to);
        } else {
          rt.kernels->max_box_f32(box, channels, to);
        }
      }
    }
  });
}

}  // namespace ek
