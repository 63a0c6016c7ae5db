// Convolution, depthwise convolution and pooling on every ISA against the slow way.
#include <doctest/doctest.h>

#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "conv/conv.h"
#include "guarded.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

struct Case {
  size_t batch, h, w, in_c, out_c, kernel, stride, dilation, pad, groups;
};
const Case kCases[] = {
    {1, 8, 8, 16, 24, 1, 1, 1, 0, 1},
    {2, 7, 5, 3, 17, 3, 2, 1, 1, 1},
    {1, 9, 9, 20, 70, 3, 1, 1, 1, 1},
    {1, 12, 6, 5, 9, 5, 3, 1, 2, 1},
    {1, 11, 11, 8, 16, 3, 1, 2, 2, 1},
    {1, 6, 6, 12, 8, 3, 1, 1, 1, 4},
    {1, 4, 4, 64, 130, 1, 2, 1, 0, 2},
    {1, 1, 1, 33, 5, 1, 1, 1, 0, 1},
    {2, 9, 7, 3, 70, 3, 2, 1, 0, 1},
    {1, 9, 7, 6, 20, 3, 1, 2, 2, 2},
    {2, 6, 13, 16, 80, 3, 1, 1, 1, 1},
    {1, 10, 6, 1, 8, 4, 2, 1, 1, 1},
    {1, 3, 3, 24, 16, 5, 1, 1, 2, 1},
    {1, 7, 8, 22, 9, 3, 2, 1, 1, 1},
    // As deep as weights that stay in registers; more weights than are multiplied at once.
    {1, 15, 17, 16, 100, 1, 2, 1, 0, 1},
    {2, 9, 9, 3, 33, 3, 1, 1, 1, 1},
    {1, 3, 4, 516, 130, 3, 1, 1, 1, 1},
};
const Case kDepthwise[] = {
    {1, 8, 8, 16, 16, 3, 1, 1, 1, 16},
    {2, 7, 9, 37, 37, 3, 2, 1, 1, 37},
    {1, 6, 6, 5, 5, 5, 1, 1, 2, 5},
    {1, 9, 5, 64, 64, 3, 1, 2, 2, 64},
    {1, 3, 3, 40, 40, 1, 1, 1, 0, 40},
    {1, 10, 4, 19, 19, 7, 2, 1, 3, 19},
    {1, 5, 40, 100, 100, 3, 1, 1, 1, 100},
    {1, 9, 9, 64, 64, 9, 1, 1, 4, 64},
    {2, 8, 5, 64, 64, 3, 1, 1, 1, 64},
    {1, 9, 8, 80, 80, 3, 2, 1, 1, 80},
    {1, 6, 8, 32, 32, 3, 1, 1, 1, 32},
    {1, 4, 3, 32, 32, 3, 1, 1, 1, 32},
    {2, 7, 7, 144, 144, 3, 1, 1, 0, 144},
    {1, 3, 2, 96, 96, 3, 1, 1, 2, 96},
    {1, 150, 3, 64, 64, 3, 2, 1, 1, 64},
    {1, 3, 2, 32, 32, 3, 1, 1, 2, 32},
    // Rows as runs of bytes: blocks of several pixels, weights that repeat after some blocks, strides, dilation.
    {2, 6, 9, 8, 8, 3, 1, 1, 1, 8},
    {1, 7, 23, 8, 8, 3, 2, 1, 1, 8},
    {1, 9, 20, 24, 24, 5, 1, 1, 2, 24},
    {1, 11, 40, 3, 3, 3, 3, 2, 2, 3},
    {2, 5, 70, 1, 1, 3, 1, 1, 0, 1},
    {1, 12, 9, 48, 48, 3, 2, 1, 1, 48},
    {1, 9, 16, 16, 16, 3, 4, 1, 1, 16},
    {1, 4, 12, 12, 12, 3, 1, 3, 3, 12},
};

Window window_of(const Case& c) {
  Window w;
  w.batch = c.batch;
  w.in_h = c.h;
  w.in_w = c.w;
  w.kernel_h = w.kernel_w = c.kernel;
  w.stride_h = w.stride_w = c.stride;
  w.dilation_h = w.dilation_w = c.dilation;
  w.pad_top = w.pad_left = c.pad;
  const size_t reach = c.dilation * (c.kernel - 1) + 1;
  w.out_h = (c.h + 2 * c.pad - reach) / c.stride + 1;
  w.out_w = (c.w + 2 * c.pad - reach) / c.stride + 1;
  return w;
}

/// Runs one case on one ISA for all kinds of output and both thread counts, and compares.
void check_case(const Case& c, const Kernels* table, Sign sign, bool depthwise) {
  CAPTURE(isa_name(table->isa));
  CAPTURE(c.in_c);
  CAPTURE(c.out_c);
  CAPTURE(c.kernel);
  ConvArgs args;
  args.window = window_of(c);
  args.in_c = c.in_c;
  args.out_c = c.out_c;
  args.groups = c.groups;
  const Bytes x = random_bytes(c.batch * c.h * c.w * c.in_c);
  Guarded<uint8_t> guarded_x(x);
  args.x = guarded_x.data();
  args.x_q = {0.02f, sign == Sign::kU8 ? uniform(0, 255) : uniform(-128, 127), sign};

  const size_t taps = args.window.taps(), group_in = c.in_c / c.groups, group_out = c.out_c / c.groups;
  const size_t padded = round_up(group_out, kStrip), pixels = args.window.pixels();
  const std::vector<int8_t> w = random_weights(c.out_c * taps * group_in);
  std::vector<int32_t> bias(c.out_c);
  for (auto& b : bias) b = uniform(-5000, 5000);
  // Arrays that run over channels are padded group by group; depthwise counts as one group of all channels.
  const size_t parts = depthwise ? 1 : c.groups, part_out = c.out_c / parts, part_padded = round_up(part_out, kStrip);
  std::vector<int32_t> init(parts * part_padded);
  std::vector<float> multiplier(parts * part_padded), flat_multiplier(c.out_c);
  AlignedBuffer packed;
  if (depthwise) {
    packed = AlignedBuffer(depthwise_packed_bytes(c.in_c, taps));
    pack_depthwise(c.in_c, taps, w.data(), static_cast<ptrdiff_t>(taps), 1, packed.data());
    make_init(*table, sign, args.x_q.zero_point, depthwise_colsum(packed.data(), c.in_c, taps), bias.data(), c.in_c,
              init.data());
  } else {
    const PackedShape shape{group_out, taps, group_in};
    size_t bytes = 0;
    REQUIRE(shape.bytes(&bytes));
    const size_t step = round_up(bytes, 64);
    packed = AlignedBuffer(step * c.groups);
    for (size_t g = 0; g < c.groups; ++g) {
      uint8_t* out = packed.data() + g * step;
      pack_weights(shape, w.data() + g * group_out * taps * group_in, static_cast<ptrdiff_t>(taps * group_in),
                   static_cast<ptrdiff_t>(group_in), 1, out);
      make_init(*table, sign, args.x_q.zero_point, reinterpret_cast<const int32_t*>(out + shape.colsum_offset()),
                bias.data() + g * group_out, group_out, init.data() + g * padded);
    }
  }
  for (size_t n = 0; n < c.out_c; ++n) {
    multiplier[n / part_out * part_padded + n % part_out] = flat_multiplier[n] = uniform(1e-4f, 2e-3f);
  }
  args.weights = packed.data();
  args.init = init.data();
  const Bytes residual = random_bytes(pixels * c.out_c);
  Guarded<uint8_t> guarded_residual(residual);

  for (const int threads : {1, 2}) {
    const Runtime rt{table, threads};
    for (int kind = 0; kind < 4; ++kind) {  // int32, quantized, quantized + residual, float
      Epilogue e;
      e.multiplier = multiplier.data();
      e.kind = kind == 0 ? OutKind::kInt32 : kind == 3 ? OutKind::kFloat32 : OutKind::kQuantized;
      e.lo = kind == 3 ? 0.0f : -117.0f;
      e.hi = kind == 3 ? 6.0f : kind == 1 ? 60.0f : 138.0f;
      e.out = {0.05f, 117, Sign::kU8};
      if (kind == 2) {
        e.residual = guarded_residual.data();
        e.residual_ld = c.out_c;
        e.residual_q = {0.031f, 12, Sign::kS8};
        e.sum_q = {0.07f, -20, Sign::kS8};
        e.sum_lo = 0;
        e.sum_hi = 147;
      }
      args.epilogue = e;
      const size_t item = e.kind == OutKind::kQuantized ? 1 : 4;
      Guarded<uint8_t> y(pixels * c.out_c * item);
      args.y = y.data();
      AlignedBuffer runs(depthwise ? 0 : conv_runs_bytes(rt, args));
      if (runs.size() > 0) pack_conv_runs(rt, args, runs.data());
      args.in_runs = runs.data();
      AlignedBuffer scratch(depthwise ? depthwise_scratch_bytes(rt, args) : conv_scratch_bytes(rt, args));
      depthwise ? depthwise_conv(rt, args, scratch.data()) : conv(rt, args, scratch.data());

      Epilogue flat = e;
      flat.multiplier = flat_multiplier.data();
      size_t wrong = 0;
      for (size_t pixel = 0; pixel < pixels; ++pixel) {
        for (size_t n = 0; n < c.out_c; ++n) {
          const Stored s = store(conv_acc(args, w, bias, pixel, n), flat, pixel, n, n);
          const uint8_t* at = y.data() + (pixel * c.out_c + n) * item;
          int32_t i = 0;
          float f = 0;
          std::memcpy(&i, at, item);
          std::memcpy(&f, at, item);
          wrong += kind == 0 ? i != s.i : kind == 3 ? f != s.f : *at != s.q;
        }
      }
      CAPTURE(kind);
      CAPTURE(threads);
      CHECK(wrong == 0);
    }
  }
}

}  // namespace

TEST_CASE("convolution equals the slow way on every ISA") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Case& c : kCases) {
      for (const Sign sign : {Sign::kU8, Sign::kS8}) check_case(c, table, sign, false);
    }
  }
}

TEST_CASE("depthwise convolution equals the slow way on every ISA") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Case& c : kDepthwise) {
      for (const Sign sign : {Sign::kU8, Sign::kS8}) check_case(c, table, sign, true);
    }
  }
}

TEST_CASE("max and average pooling equal the slow way on every ISA") {
  const Case cases[] = {{1, 8, 8, 16, 16, 3, 2, 1, 1, 1}, {2, 7, 7, 21, 21, 7, 1, 1, 0, 1},
                        {1, 9, 5, 3, 3, 2, 2, 1, 0, 1},   {2, 5, 7, 100, 100, 3, 2, 1, 1, 1},
                        {1, 6, 6, 64, 64, 3, 1, 2, 2, 1}, {1, 4, 9, 193, 193, 2, 1, 1, 0, 1}};
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Case& c : cases) {
      for (const Sign sign : {Sign::kU8, Sign::kS8}) {
        for (const bool include_pad : {false, true}) {
          CAPTURE(isa_name(table->isa));
          PoolArgs args;
          args.window = window_of(c);
          args.channels = c.in_c;
          const Bytes x = random_bytes(c.batch * c.h * c.w * c.in_c);
          Guarded<uint8_t> guarded(x);
          args.x = guarded.data();
          args.x_q = {0.03f, sign == Sign::kU8 ? 100 : -5, sign};
          args.y_q = {0.02f, sign == Sign::kU8 ? 90 : 7, sign};
          args.count_include_pad = include_pad;
          const Window& win = args.window;
          const size_t pixels = win.pixels();
          Guarded<uint8_t> largest(pixels * c.in_c), average(pixels * c.in_c);
          const Runtime rt{table, 2};
          AlignedBuffer scratch(pool_scratch_bytes(rt, args));
          args.y = largest.data();
          max_pool(rt, args, scratch.data());
          args.y = average.data();
          average_pool(rt, args, scratch.data());
          size_t wrong = 0;
          for (size_t p = 0; p < pixels; ++p) {
            for (size_t ch = 0; ch < c.in_c; ++ch) {
              int32_t top = -1000, sum = 0, count = 0;
              for (size_t tap = 0; tap < win.taps(); ++tap) {
                const long iy =
                    static_cast<long>(p / win.out_w % win.out_h * win.stride_h + tap / win.kernel_w * win.dilation_h) -
                    static_cast<long>(win.pad_top);
                const long ix = static_cast<long>(p % win.out_w * win.stride_w + tap % win.kernel_w * win.dilation_w) -
                                static_cast<long>(win.pad_left);
                if (iy < 0 || ix < 0 || iy >= static_cast<long>(c.h) || ix >= static_cast<long>(c.w)) continue;
                const size_t image = p / (win.out_w * win.out_h);
                const size_t at =
                    ((image * c.h + static_cast<size_t>(iy)) * c.w + static_cast<size_t>(ix)) * c.in_c + ch;
                const int32_t v = value(x[at], sign);
                top = std::max(top, v);
                sum += v - args.x_q.zero_point;
                ++count;
              }
              if (include_pad) count = static_cast<int32_t>(win.taps());
              const float m = static_cast<float>(double{args.x_q.scale} / (double{args.y_q.scale} * count));
              const int32_t low = sign == Sign::kU8 ? 0 : -128;
              const float lo = static_cast<float>(low - args.y_q.zero_point);
              const int32_t q = rne(clamp(static_cast<float>(sum) * m, lo, lo + 255)) + args.y_q.zero_point;
              wrong += largest.data()[p * c.in_c + ch] != static_cast<uint8_t>(top);
              wrong += average.data()[p * c.in_c + ch] != static_cast<uint8_t>(q);
            }
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
}
