// A program of steps on 8 bits, built layer by layer, and beside each tensor what the slow way says it holds.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "gemm/pack.h"
#include "packed_groups.h"
#include "program_builder.h"

namespace ek::test {

class SmallProgram : public ProgramBuilder {
 public:
  /// (1, C, H, W) float -> (1, H, W, C) 8-bit.
  uint32_t quantize_nchw(uint32_t x, float scale, int32_t zero_point, DType dtype) {
    const auto s = index.tensors[x].shape;
    const uint32_t y = tensor(dtype, {s[0], s[2], s[3], s[1]}, scale, zero_point);
    const auto pixels = static_cast<size_t>(s[2] * s[3]), channels = static_cast<size_t>(s[1]);
    step(StepKind::kQuantizeNchw, {x}, y, {{"batch", s[0]}, {"channels", s[1]}, {"pixels", s[2] * s[3]}});
    for (size_t c = 0; c < channels; ++c) {
      for (size_t p = 0; p < pixels; ++p) set(y, p * channels + c, get<float>(x, c * pixels + p));
    }
    return y;
  }

  struct Conv {
    int64_t out_c = 1, kernel = 1, stride = 1, pad = 0, groups = 1;
    bool depthwise = false;
    int64_t residual = -1;
    DType out = DType::kU8;
    bool four_bits = false;  // weights, in the file
  };

  uint32_t conv(uint32_t x, const Conv& c) {
    const auto in = index.tensors[x].shape;
    ConvArgs args;
    Window& w = args.window;
    w.in_h = static_cast<size_t>(in[1]);
    w.in_w = static_cast<size_t>(in[2]);
    w.kernel_h = w.kernel_w = static_cast<size_t>(c.kernel);
    w.stride_h = w.stride_w = static_cast<size_t>(c.stride);
    w.pad_top = w.pad_left = static_cast<size_t>(c.pad);
    const int64_t out_h = (in[1] + 2 * c.pad - c.kernel) / c.stride + 1,
                  out_w = (in[2] + 2 * c.pad - c.kernel) / c.stride + 1;
    w.out_h = static_cast<size_t>(out_h);
    w.out_w = static_cast<size_t>(out_w);
    args.in_c = static_cast<size_t>(in[3]);
    args.out_c = static_cast<size_t>(c.out_c);
    args.groups = static_cast<size_t>(c.groups);
    args.x = expected[x].data();
    args.x_q = quant_of(index.tensors[x]);
    const uint32_t y = tensor(c.out, {1, out_h, out_w, c.out_c}, 0.05f, c.out == DType::kU8 ? 120 : -3);
    Arguments arguments = window_arguments(w);
    if (c.depthwise) {
      arguments.emplace_back("channels", c.out_c);
    } else {
      arguments.insert(arguments.end(), {{"in_channels", in[3]}, {"out_channels", c.out_c}, {"groups", c.groups}});
    }
    finish_product(c.depthwise ? StepKind::kDepthwise : StepKind::kConv, x, std::move(arguments), args, c, y);
    return y;
  }

  uint32_t gemm(uint32_t x, int64_t rows, const Conv& c) {
    const int64_t k = static_cast<int64_t>(size(x)) / rows;
    ConvArgs args;
    args.window.in_h = args.window.out_h = static_cast<size_t>(rows);
    args.window.in_w = args.window.out_w = 1;
    args.in_c = static_cast<size_t>(k);
    args.out_c = static_cast<size_t>(c.out_c);
    args.x = expected[x].data();
    args.x_q = quant_of(index.tensors[x]);
    const uint32_t y = tensor(c.out, {rows, c.out_c}, 0.04f, c.out == DType::kU8 ? 128 : 0);
    finish_product(StepKind::kGemm, x, {{"rows", rows}, {"k", k}, {"columns", c.out_c}}, args, c, y);
    return y;
  }

  uint32_t pool(uint32_t x, bool average, int64_t kernel, int64_t stride) {
    const auto in = index.tensors[x].shape;
    const QuantParams xq = quant_of(index.tensors[x]);
    const int64_t out_h = (in[1] - kernel) / stride + 1, out_w = (in[2] - kernel) / stride + 1;
    const uint32_t y = average ? tensor(index.tensors[x].dtype, {1, out_h, out_w, in[3]}, xq.scale / 2, xq.zero_point)
                               : tensor(index.tensors[x].dtype, {1, out_h, out_w, in[3]}, xq.scale, xq.zero_point);
    Window w;
    w.in_h = static_cast<size_t>(in[1]);
    w.in_w = static_cast<size_t>(in[2]);
    w.out_h = static_cast<size_t>(out_h);
    w.out_w = static_cast<size_t>(out_w);
    w.kernel_h = w.kernel_w = static_cast<size_t>(kernel);
    w.stride_h = w.stride_w = static_cast<size_t>(stride);
    Arguments arguments = window_arguments(w);
    arguments.emplace_back("channels", in[3]);
    if (average) arguments.emplace_back("count_include_pad", 0);
    step(average ? StepKind::kAveragePool : StepKind::kMaxPool, {x}, y, arguments);
    const QuantParams yq = quant_of(index.tensors[y]);
    const auto multiplier =
        static_cast<float>(double{xq.scale} / (double{yq.scale} * static_cast<double>(kernel * kernel)));
    for (int64_t i = 0; i < static_cast<int64_t>(size(y)); ++i) {
      const int64_t ch = i % in[3], ox = i / in[3] % out_w, oy = i / in[3] / out_w;
      int32_t top = -1000, sum = 0;
      for (int64_t tap = 0; tap < kernel * kernel; ++tap) {
        const int64_t at = ((oy * stride + tap / kernel) * in[2] + ox * stride + tap % kernel) * in[3] + ch;
        const int32_t v = value(expected[x][static_cast<size_t>(at)], xq.sign);
        top = std::max(top, v);
        sum += v - xq.zero_point;
      }
      const float lo = low(yq), hi = lo + 255;
      expected[y][static_cast<size_t>(i)] = static_cast<uint8_t>(
          average ? rne(clamp(static_cast<float>(sum) * multiplier, lo, hi)) + yq.zero_point : top);
    }
    return y;
  }

  uint32_t add(uint32_t a, uint32_t b) {
    const uint32_t y = tensor(DType::kS8, index.tensors[a].shape, 0.08f, 5);
    const QuantParams q = quant_of(index.tensors[y]);
    step(StepKind::kAdd, {a, b}, y, {{"lo", 0.0f}, {"hi", low(q) + 255}});  // a ReLU follows
    for (size_t i = 0; i < size(y); ++i) {
      const float sum =
          real(expected[a][i], quant_of(index.tensors[a])) + real(expected[b][i], quant_of(index.tensors[b]));
      expected[y][i] = quantized(sum, q, 0.0f, low(q) + 255);
    }
    return y;
  }

  /// a as (rows, k) times b, an int8 tensor with zero point 0, as (k, columns).
  uint32_t matmul(uint32_t a, uint32_t b, int64_t rows, int64_t columns) {
    const int64_t k = static_cast<int64_t>(size(a)) / rows;
    const uint32_t y = tensor(DType::kU8, {rows, columns}, 0.05f, 120);
    const QuantParams qa = quant_of(index.tensors[a]), q = quant_of(index.tensors[y]);
    step(StepKind::kMatmul, {a, b}, y,
         {{"batch", 1},
          {"rows", rows},
          {"k", k},
          {"columns", columns},
          {"multiplier", 0.004f},
          {"lo", low(q)},
          {"hi", low(q) + 255}});
    for (int64_t i = 0; i < rows * columns; ++i) {
      int32_t acc = 0;
      for (int64_t j = 0; j < k; ++j) {
        acc += (value(expected[a][static_cast<size_t>(i / columns * k + j)], qa.sign) - qa.zero_point) *
               value(expected[b][static_cast<size_t>(j * columns + i % columns)], Sign::kS8);
      }
      const float real = static_cast<float>(acc) * 0.004f;
      expected[y][static_cast<size_t>(i)] = static_cast<uint8_t>(rne(clamp(real, low(q), low(q) + 255)) + q.zero_point);
    }
    return y;
  }

  uint32_t lookup(uint32_t x) {
    const uint32_t y = tensor(DType::kU8, index.tensors[x].shape, 0.03f, 9);
    const Bytes table = random_bytes(256);
    step(StepKind::kLookup, {x}, y).blobs = {blob(table.data(), table.size())};
    for (size_t i = 0; i < size(y); ++i) expected[y][i] = table[expected[x][i]];
    return y;
  }

  /// Over the last axis.
  uint32_t softmax(uint32_t x, float scale, int32_t zero_point, DType dtype) {
    const auto s = index.tensors[x].shape;
    const uint32_t y = tensor(dtype, s, scale, zero_point);
    std::vector<int32_t> table(256);
    for (size_t d = 0; d < table.size(); ++d) table[d] = (1 << 30) >> (d / 8);
    const auto n = static_cast<size_t>(s.back()), rows = size(x) / n;
    step(StepKind::kSoftmax, {x}, y, {{"rows", rows}, {"columns", n}}).blobs = {blob(table.data(), table.size() * 4)};
    const QuantParams q = quant_of(index.tensors[y]);
    const uint8_t flip = index.tensors[x].dtype == DType::kS8 ? 0x80 : 0;
    for (size_t r = 0; r < rows; ++r) {
      const uint8_t* row = expected[x].data() + r * n;
      int largest = 0;
      for (size_t i = 0; i < n; ++i) largest = std::max(largest, row[i] ^ flip);
      int64_t sum = 0;
      for (size_t i = 0; i < n; ++i) sum += table[static_cast<size_t>(largest - (row[i] ^ flip))];
      const auto factor = static_cast<float>(1.0 / (static_cast<double>(sum) * q.scale));
      for (size_t i = 0; i < n; ++i) {
        const float v = static_cast<float>(table[static_cast<size_t>(largest - (row[i] ^ flip))]) * factor;
        const float code = std::nearbyint(std::min(std::max(v, low(q)), low(q) + 255));
        expected[y][r * n + i] = static_cast<uint8_t>(static_cast<int>(code) + q.zero_point);
      }
    }
    return y;
  }

  /// Concatenates along the channels of NHWC tensors.
  uint32_t concat(uint32_t a, uint32_t b) {
    const auto sa = index.tensors[a].shape, sb = index.tensors[b].shape;
    const uint32_t y = tensor(index.tensors[a].dtype, {1, sa[1], sa[2], sa[3] + sb[3]});
    const auto rows = static_cast<size_t>(sa[1] * sa[2]), na = static_cast<size_t>(sa[3]),
               nb = static_cast<size_t>(sb[3]);
    step(StepKind::kConcat, {a, b}, y, {{"rows", sa[1] * sa[2]}, {"bytes", {sa[3], sb[3]}}});
    for (size_t r = 0; r < rows; ++r) {
      for (size_t i = 0; i < na + nb; ++i) {
        expected[y][r * (na + nb) + i] = i < na ? expected[a][r * na + i] : expected[b][r * nb + i - na];
      }
    }
    return y;
  }

  /// Every second row from the last one up.
  uint32_t slice(uint32_t x) {
    const auto s = index.tensors[x].shape;
    const int64_t rows = (s[1] + 1) / 2;
    const uint32_t y = tensor(index.tensors[x].dtype, {1, rows, s[2], s[3]});
    step(StepKind::kSlice, {x}, y,
         {{"x_shape", {1, s[1], s[2], s[3]}},
          {"y_shape", {1, rows, s[2], s[3]}},
          {"start", {0, s[1] - 1, 0, 0}},
          {"stride", {1, -2, 1, 1}}});
    const auto line = static_cast<size_t>(s[2] * s[3]);
    for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
      std::memcpy(expected[y].data() + r * line, expected[x].data() + (static_cast<size_t>(s[1]) - 1 - 2 * r) * line,
                  line);
    }
    return y;
  }

  /// One row of `fill` above and below.
  uint32_t pad(uint32_t x, uint8_t fill) {
    const auto s = index.tensors[x].shape;
    const uint32_t y = tensor(index.tensors[x].dtype, {1, s[1] + 2, s[2], s[3]});
    step(StepKind::kPad, {x}, y,
         {{"x_shape", {1, s[1], s[2], s[3]}},
          {"y_shape", {1, s[1] + 2, s[2], s[3]}},
          {"before", {0, 1, 0, 0}},
          {"value", fill}});
    std::fill(expected[y].begin(), expected[y].end(), fill);
    std::memcpy(expected[y].data() + s[2] * s[3], expected[x].data(), size(x));
    return y;
  }

  /// (1, H, W, C) -> (1, C, H, W).
  uint32_t transpose(uint32_t x) {
    const auto s = index.tensors[x].shape;
    const uint32_t y =
        tensor(index.tensors[x].dtype, {1, s[3], s[1], s[2]}, index.tensors[x].scale, index.tensors[x].zero_point);
    step(StepKind::kTranspose, {x}, y, {{"x_shape", {1, s[1], s[2], s[3]}}, {"perm", {0, 3, 1, 2}}, {"item_bytes", 1}});
    const auto pixels = static_cast<size_t>(s[1] * s[2]), channels = static_cast<size_t>(s[3]);
    for (size_t i = 0; i < size(y); ++i) expected[y][i] = expected[x][i % pixels * channels + i / pixels];
    return y;
  }

  uint32_t dequantize(uint32_t x, bool nchw) {
    const auto s = index.tensors[x].shape;
    const uint32_t y = nchw ? tensor(DType::kF32, {s[0], s[3], s[1], s[2]}) : tensor(DType::kF32, s);
    const size_t channels = nchw ? static_cast<size_t>(s[3]) : 1, pixels = size(x) / channels;
    if (nchw) {
      step(StepKind::kDequantizeNchw, {x}, y, {{"batch", 1}, {"channels", s[3]}, {"pixels", s[1] * s[2]}});
    } else {
      step(StepKind::kDequantize, {x}, y);
    }
    for (size_t i = 0; i < size(y); ++i) {
      put(y, i, real(expected[x][i % pixels * channels + i / pixels], quant_of(index.tensors[x])));
    }
    return y;
  }

  uint32_t quantize(uint32_t x) {
    const uint32_t y = tensor(DType::kS8, index.tensors[x].shape, 0.021f, -17);
    step(StepKind::kQuantize, {x}, y);
    for (size_t i = 0; i < size(y); ++i) set(y, i, get<float>(x, i));
    return y;
  }

 private:
  static Arguments window_arguments(const Window& w) {
    return {{"batch", w.batch},
            {"in_h", w.in_h},
            {"in_w", w.in_w},
            {"out_h", w.out_h},
            {"out_w", w.out_w},
            {"kernel_h", w.kernel_h},
            {"kernel_w", w.kernel_w},
            {"stride_h", w.stride_h},
            {"stride_w", w.stride_w},
            {"dilation_h", w.dilation_h},
            {"dilation_w", w.dilation_w},
            {"pad_top", w.pad_top},
            {"pad_left", w.pad_left}};
  }

  /// The step of a convolution or a product, whose sizes are given: weights, blobs, clamps, residual, expected output.
  void finish_product(StepKind kind, uint32_t x, Arguments arguments, ConvArgs& args, const Conv& c, uint32_t y) {
    const size_t taps = args.window.taps(), group_in = args.in_c / args.groups, group_out = args.out_c / args.groups;
    // Arrays over channels are padded group by group; depthwise counts as one group.
    const size_t parts = c.depthwise ? 1 : args.groups, part = args.out_c / parts, padded = round_up(part, kStrip);
    std::vector<int8_t> w = random_weights(args.out_c * taps * group_in);
    for (int8_t& code : w) code = static_cast<int8_t>(c.four_bits ? code / 16 : code);
    std::vector<int32_t> bias(args.out_c), padded_bias(parts * padded);
    std::vector<float> multiplier(parts * padded);
    const float unit = c.out == DType::kF32 ? 1.0f : 0.004f;
    for (size_t n = 0; n < args.out_c; ++n) {
      const size_t at = n / part * padded + n % part;
      padded_bias[at] = bias[n] = uniform(-5000, 5000);
      multiplier[at] = unit * uniform(0.5f, 1.0f);
    }
    AlignedBuffer packed;
    if (c.depthwise) {
      packed = AlignedBuffer(depthwise_packed_bytes(args.in_c, taps));
      pack_depthwise(args.in_c, taps, w.data(), static_cast<ptrdiff_t>(taps), 1, packed.data());
    } else {
      packed = pack_groups(w.data(), args.groups, {group_out, taps, group_in});
    }
    const size_t sums = padded * sizeof(int32_t);
    const uint32_t weights =
        c.four_bits ? blob_of_nibbles(packed.data(), static_cast<uint32_t>(parts), packed.size() / parts - sums, sums)
                    : blob(packed.data(), packed.size());
    const std::vector<uint32_t> blobs = {weights, blob(padded_bias.data(), padded_bias.size() * sizeof(int32_t)),
                                         blob(multiplier.data(), multiplier.size() * sizeof(float))};

    Epilogue e;
    e.multiplier = multiplier.data();
    e.out = quant_of(index.tensors[y]);
    e.kind = c.out == DType::kI32 ? OutKind::kInt32 : c.out == DType::kF32 ? OutKind::kFloat32 : OutKind::kQuantized;
    e.lo = e.kind == OutKind::kQuantized ? low(e.out) : -1e6f;
    e.hi = e.kind == OutKind::kQuantized ? low(e.out) + 255 : 1e6f;
    std::vector<uint32_t> in = {x};
    if (c.residual >= 0) {
      const auto r = static_cast<uint32_t>(c.residual);
      e.sum_q = e.out;
      e.out = {0.06f, -9, Sign::kS8};
      e.lo = low(e.out);
      e.hi = low(e.out) + 255;
      e.residual = expected[r].data();
      e.residual_ld = args.out_c;
      e.residual_q = quant_of(index.tensors[r]);
      e.sum_lo = 0;  // a ReLU follows
      e.sum_hi = low(e.sum_q) + 255;
      in.push_back(r);
    }
    const bool residual = in.size() == 2;
    arguments.insert(arguments.end(), {{"lo", e.lo},
                                       {"hi", e.hi},
                                       {"mid_scale", residual ? e.out.scale : 1.0f},
                                       {"mid_zero_point", residual ? e.out.zero_point : 0},
                                       {"mid_signed", residual},
                                       {"sum_lo", residual ? e.sum_lo : 0.0f},
                                       {"sum_hi", residual ? e.sum_hi : 0.0f}});
    step(kind, std::move(in), y, arguments).blobs = blobs;
    for (size_t i = 0; i < size(y); ++i) {
      const size_t n = i % args.out_c, pixel = i / args.out_c;
      const Stored stored = store(conv_acc(args, w, bias, pixel, n), e, pixel, n / part * padded + n % part, n);
      if (e.kind == OutKind::kQuantized) {
        expected[y][i] = stored.q;
      } else if (e.kind == OutKind::kFloat32) {
        put(y, i, stored.f);
      } else {
        put(y, i, stored.i);
      }
    }
  }
};

}  // namespace ek::test
