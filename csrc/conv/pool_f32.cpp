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

Inside inside(const PoolF32Args& args, size_t axis, size_t out) {
  const size_t in = args.in[axis], dilation = args.dilation[axis], from = out * args.stride[axis];
  const size_t before = from < args.pad[axis] ? ceil_div(args.pad[axis] - from, dilation) : 0;
  const size_t first = from + before * dilation - args.pad[axis];
  if (before >= args.kernel[axis] || first >= in) return {0, 0};
  return {first, std::min(args.kernel[axis] - before, ceil_div(in - first, dilation))};
}

}  // namespace

void pool_f32(const Runtime& rt, const PoolF32Args& args) {
  const size_t taps = args.kernel[0] * args.kernel[1] * args.kernel[2];
  const size_t lines = args.batch * args.out[0] * args.out[1], width = args.out[2];
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
    for (size_t axis = 3; axis-- > 0;) {
      const size_t row = axis == 2   ? args.channels
                         : axis == 1 ? args.in[2] * args.channels
                                     : args.in[1] * args.in[2] * args.channels;
      box.step[axis] = args.dilation[axis] * row;
    }
    for (size_t line = lines * share / shares; line < lines * (share + 1) / shares; ++line) {
      const size_t plane = line / args.out[1], image = plane / args.out[0];
      const Inside z = inside(args, 0, plane - image * args.out[0]), y = inside(args, 1, line - plane * args.out[1]);
      const size_t row = ((image * args.in[0] + z.first) * args.in[1] + y.first) * args.in[2];
      box.count[0] = z.count;
      box.count[1] = y.count;
      for (size_t column = 0; column < width; ++column) {
        const Inside x = inside(args, 2, column);
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
