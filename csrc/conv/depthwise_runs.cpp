// Rows of the image are copied with their padding around them, pixels that are one stride apart side by side. So what a
// tap reads for one pixel of the output lies right before what it reads for the next, and a row is one run of bytes.
#include "conv/depthwise_runs.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/checked.h"

namespace ek {
namespace {

/// As many channels and more fill vectors of their own.
constexpr size_t kFew = 64;
/// Under a higher window more rows would wait than a task keeps; along a wider stride much is copied that no tap reads.
constexpr size_t kMostRows = 64, kMostStride = 4;
/// Quads of 64 lanes that stay in the L1.
constexpr size_t kMostQuads = 48;

/// What is where in the scratch.
struct Layout {
  size_t quads, period;
  size_t pixels, part;  // of one stride's part of a copied row, and its bytes, with room for the last block
  size_t row, rows;     // bytes of a copied row, and how many lie under a window

  size_t lanes() const { return period * kLine; }
  size_t weights() const { return lanes() * quads * 4; }
  size_t constants() const { return weights() + lanes() * (sizeof(int32_t) + sizeof(float)); }
  size_t pointers() const { return round_up(quads * 4 * sizeof(uint8_t*), kLine); }
  size_t task() const { return pointers() + row * rows; }
};

Layout layout_of(const ConvArgs& args) {
  const Window& w = args.window;
  const size_t reach = (w.out_w - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1;
  Layout l{};
  l.quads = ceil_div(w.taps(), 4);
  l.period = args.out_c / std::gcd(args.out_c, kLine);
  l.pixels = ceil_div(reach, w.stride_w);
  l.part = round_up(l.pixels * args.out_c + kLine, kLine);
  l.row = l.part * w.stride_w;
  l.rows = (w.kernel_h - 1) * w.dilation_h + 1;
  return l;
}

DepthwiseRun constants_at(const Layout& l, uint8_t* scratch) {
  DepthwiseRun run{};
  run.quads = l.quads, run.period = l.period;
  run.weights = scratch;
  run.init = reinterpret_cast<const int32_t*>(scratch + l.weights());
  run.multiplier = reinterpret_cast<const float*>(run.init + l.lanes());
  return run;
}

/// `count` pixels of a row from pixel `x` on, `step` apart; zero points for those outside of it.
void copy_pixels(const uint8_t* row, ptrdiff_t in_w, ptrdiff_t x, ptrdiff_t step, ptrdiff_t count, size_t channels,
                 uint8_t zero, uint8_t* to) {
  const auto bytes = [&](ptrdiff_t pixels) { return static_cast<size_t>(pixels) * channels; };
  const ptrdiff_t before = x < 0 ? std::min(count, (step - 1 - x) / step) : 0;
  x += before * step;
  const ptrdiff_t inside = x < in_w ? std::min(count - before, (in_w - x + step - 1) / step) : 0;
  std::memset(to, zero, bytes(before));
  to += bytes(before);
  if (inside > 0) row += bytes(x);
  if (step == 1) {
    std::memcpy(to, row, bytes(inside));
    to += bytes(inside);
  } else {
    for (ptrdiff_t i = 0; i < inside; ++i, row += bytes(step), to += channels) {
      size_t b = 0;
      for (; b + 8 <= channels; b += 8) std::memcpy(to + b, row + b, 8);  // no call for so little
      for (; b < channels; ++b) to[b] = row[b];
    }
  }
  std::memset(to, zero, bytes(count - before - inside));
}

}  // namespace

bool by_runs(const ConvArgs& args) {
  const Window& w = args.window;
  if (args.out_c >= kFew || args.epilogue.kind != OutKind::kQuantized || args.epilogue.residual != nullptr)
    return false;
  const Layout l = layout_of(args);
  return w.stride_w <= kMostStride && l.rows <= kMostRows && l.period * l.quads <= kMostQuads &&
         w.out_w * args.out_c >= kFew;
}

size_t runs_zeros_bytes(const ConvArgs& args) { return layout_of(args).part; }

size_t runs_bytes(const ConvArgs& args, size_t tasks) {
  const Layout l = layout_of(args);
  return l.constants() + tasks * l.task();
}

void spread_runs(const Runtime& rt, const ConvArgs& args, uint8_t* scratch) {
  const Layout l = layout_of(args);
  const DepthwiseRun run = constants_at(l, scratch);
  SpreadDepthwise spread{};
  spread.weights = reinterpret_cast<const int8_t*>(args.weights);
  spread.init = args.init;
  spread.multiplier = args.epilogue.multiplier;
  spread.channels = args.out_c, spread.quads = l.quads, spread.period = l.period;
  spread.to_weights = scratch;
  spread.to_init = const_cast<int32_t*>(run.init);
  spread.to_multiplier = const_cast<float*>(run.multiplier);
  rt.kernels->spread_depthwise(spread);
}

void run_rows(const Runtime& rt, const ConvArgs& args, const Source& source, uint8_t* scratch, size_t task,
              size_t begin, size_t end) {
  const Window& w = args.window;
  const Layout l = layout_of(args);
  uint8_t* const slot = scratch + l.constants() + task * l.task();
  const uint8_t** const taps = reinterpret_cast<const uint8_t**>(slot);
  uint8_t* const copies = slot + l.pointers();
  size_t held[kMostRows];  // which row of the batch each copy is of
  std::fill(held, held + l.rows, SIZE_MAX);
  std::fill(taps, taps + l.quads * 4, source.zeros);  // those that only fill up the last quad stay so
  DepthwiseRun run = constants_at(l, scratch);
  run.taps = taps;
  run.bytes = w.out_w * args.out_c;
  for (size_t out = begin; out < end; ++out) {
    const size_t batch = out / w.out_h, out_y = out - batch * w.out_h;
    for (size_t ky = 0; ky < w.kernel_h; ++ky) {
      const size_t y = out_y * w.stride_h + ky * w.dilation_h - w.pad_top;  // negative: past every height
      const uint8_t* parts = source.zeros;
      if (y < w.in_h) {
        const size_t row = batch * w.in_h + y, place = row % l.rows;
        uint8_t* const copy = copies + place * l.row;
        if (held[place] != row) {
          held[place] = row;
          for (size_t p = 0; p < w.stride_w; ++p) {
            copy_pixels(source.x + row * w.in_w * args.in_c, static_cast<ptrdiff_t>(w.in_w),
                        static_cast<ptrdiff_t>(p) - static_cast<ptrdiff_t>(w.pad_left),
                        static_cast<ptrdiff_t>(w.stride_w), static_cast<ptrdiff_t>(l.pixels), args.in_c, *source.zeros,
                        copy + p * l.part);
          }
        }
        parts = copy;
      }
      for (size_t kx = 0; kx < w.kernel_w; ++kx) {
        const size_t x = kx * w.dilation_w, part = parts == source.zeros ? 0 : x % w.stride_w * l.part;
        taps[ky * w.kernel_w + kx] = parts + part + x / w.stride_w * args.in_c;
      }
    }
    run.out = args.y + out * run.bytes;
    rt.kernels->depthwise_run(run, args.epilogue);
  }
}

}  // namespace ek
