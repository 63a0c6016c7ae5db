// Steps of float products, and what they give, one fused multiply-add after the other.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "gemm/gemm_f32.h"
#include "gemm/pack.h"
#include "int4_operands.h"
#include "program_builder.h"
#include "reference.h"

namespace ek::test {

using Sides3 = std::array<int64_t, 3>;

struct FloatConv {
  int64_t out_c = 1, groups = 1;
  Sides3 kernel{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1}, pad{0, 0, 0}, out{1, 1, 1};
  bool depthwise = false, transposed = false;
  int64_t addend = -1;
  DType dtype = DType::kF32;
};

class FloatProducts {
 public:
  explicit FloatProducts(ProgramBuilder& program) : p_(program) {}

  /// x is (1, depth, height, width, channels).
  uint32_t conv(uint32_t x, const FloatConv& c) {
    const auto in = p_.index.tensors[x].shape;
    const int64_t in_c = in[4], taps = c.kernel[0] * c.kernel[1] * c.kernel[2];
    const int64_t groups = c.depthwise ? in_c : c.groups, group_in = in_c / groups, group_out = c.out_c / groups;
    const uint32_t y = p_.tensor(c.dtype, {1, c.out[0], c.out[1], c.out[2], c.out_c}, 0.05f, 3);
    const std::vector<float> w = uniform_floats(c.out_c * taps * group_in), bias = uniform_floats(c.out_c);
    auto arguments = window({in[1], in[2], in[3]}, c);
    if (c.depthwise) {
      arguments.push_back({"channels", in_c});
    } else {
      arguments.insert(arguments.end(), {{"in_channels", in_c}, {"out_channels", c.out_c}, {"groups", groups}});
    }
    const Sides3 sides = {in[1], in[2], in[3]};
    std::vector<float> sums;
    for (int64_t i = 0; i < c.out[0] * c.out[1] * c.out[2] * c.out_c; ++i) {
      const int64_t n = i % c.out_c, pixel = i / c.out_c, group = n / group_out;
      const Sides3 at = {pixel / (c.out[1] * c.out[2]), pixel / c.out[2] % c.out[1], pixel % c.out[2]};
      float sum = 0.0f;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const Sides3 k = {tap / (c.kernel[1] * c.kernel[2]), tap / c.kernel[2] % c.kernel[1], tap % c.kernel[2]};
        Sides3 from{};
        bool inside = true, between = false;
        for (size_t axis = 0; axis < 3; ++axis) {
          const int64_t reach = k[axis] * c.dilation[axis] - c.pad[axis];
          from[axis] = c.transposed ? at[axis] - reach : at[axis] * c.stride[axis] + reach;
          if (c.transposed) {
            between = between || from[axis] % c.stride[axis] != 0;
            inside = inside && from[axis] >= 0;
            from[axis] /= c.stride[axis];
          }
          inside = inside && from[axis] >= 0 && from[axis] < sides[axis];
        }
        const int64_t place = ((from[0] * sides[1] + from[1]) * sides[2] + from[2]) * in_c + group * group_in;
        for (int64_t k_in = 0; k_in < group_in && !between; ++k_in) {
          sum = std::fma(inside ? get(x, place + k_in) : 0.0f,
                         w[static_cast<size_t>((n * taps + tap) * group_in + k_in)], sum);
        }
      }
      sums.push_back(sum);
    }
    const StepKind kind = c.depthwise    ? StepKind::kDepthwiseF32
                          : c.transposed ? StepKind::kConvTransposeF32
                                         : StepKind::kConvF32;
    finish(kind, x, c, arguments, groups, taps * group_in, w, bias, sums, y);
    return y;
  }

  uint32_t gemm(uint32_t x, int64_t rows, const FloatConv& c) {
    const int64_t k = static_cast<int64_t>(p_.expected[x].size() / sizeof(float)) / rows;
    const uint32_t y = p_.tensor(c.dtype, {rows, c.out_c}, 0.05f, 3);
    const std::vector<float> w = uniform_floats(c.out_c * k), bias = uniform_floats(c.out_c);
    std::vector<float> sums;
    for (int64_t i = 0; i < rows * c.out_c; ++i) {
      float sum = 0.0f;
      for (int64_t j = 0; j < k; ++j) {
        sum = std::fma(get(x, i / c.out_c * k + j), w[static_cast<size_t>(i % c.out_c * k + j)], sum);
      }
      sums.push_back(sum);
    }
    finish(StepKind::kGemmF32, x, c, {{"rows", rows}, {"k", k}, {"columns", c.out_c}}, 1, k, w, bias, sums, y);
    return y;
  }

  /// Rows that the step quantizes, each by its largest, or by what it spans.
  uint32_t gemm_dynamic(uint32_t x, int64_t rows, const FloatConv& c, bool zero_points) {
    const auto k = static_cast<size_t>(p_.expected[x].size() / sizeof(float)) / static_cast<size_t>(rows);
    const auto n = static_cast<size_t>(c.out_c);
    const uint32_t y = p_.tensor(c.dtype, {rows, c.out_c}, 0.05f, 3);
    const std::vector<int8_t> w = random_weights(n * k);
    std::vector<float> scale(round_up(n, kStrip)), bias(round_up(n, kStrip)), sums;
    for (size_t j = 0; j < n; ++j) {
      scale[j] = uniform(0.001f, 0.01f);
      bias[j] = uniform(-1.0f, 1.0f);
    }
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t first = row * static_cast<int64_t>(k);
      float most = 0.0f, least = 0.0f;
      for (size_t i = 0; i < k; ++i) {
        const float value = get(x, first + static_cast<int64_t>(i));
        most = std::max(most, value);
        least = std::max(least, -value);
      }
      const RowScale by = zero_points ? RowScale(most + least, 254.0f) : RowScale(std::max(most, least));
      const int32_t zero = zero_points ? rne(least * by.factor) : 0;
      for (size_t j = 0; j < n; ++j) {
        int32_t sum = 0;
        for (size_t i = 0; i < k; ++i) {
          const double step = double{get(x, first + static_cast<int64_t>(i)) * by.factor} + zero;  // exact
          sum += (static_cast<int32_t>(std::nearbyint(step)) - zero) * w[j * k + i];
        }
        sums.push_back(static_cast<float>(sum) * (by.scale * scale[j]));
      }
    }
    const PackedShape shape{n, 1, k};
    size_t bytes = 0;
    if (!shape.bytes(&bytes)) std::abort();
    AlignedBuffer packed(bytes);
    pack_weights(shape, w.data(), static_cast<ptrdiff_t>(k), 0, 1, packed.data());
    const std::vector<uint32_t> blobs = {p_.blob(packed.data(), bytes),
                                         p_.blob(scale.data(), scale.size() * sizeof(float)),
                                         p_.blob(bias.data(), bias.size() * sizeof(float))};
    end(StepKind::kGemmDynamic, x, c,
        {{"rows", rows}, {"k", static_cast<int64_t>(k)}, {"columns", c.out_c}, {"zero_points", zero_points}}, blobs,
        bias, sums, y);
    return y;
  }

  /// Rows that the step quantizes run by run, times 4-bit weights.
  uint32_t gemm_groups(uint32_t x, int64_t rows, const FloatConv& c, int64_t group, bool zero_points,
                       bool wide = false) {
    const size_t items = p_.expected[x].size() / sizeof(float), k = items / static_cast<size_t>(rows);
    const auto n = static_cast<size_t>(c.out_c);
    const uint32_t y = p_.tensor(c.dtype, {rows, c.out_c}, 0.05f, 3);
    const Operands4 o = make_operands4(n, k, static_cast<size_t>(group), zero_points);
    std::vector<float> row(k), bias(round_up(n, kStrip)), sums;
    for (size_t j = 0; j < n; ++j) bias[j] = uniform(-1.0f, 1.0f);
    for (size_t at = 0; at < items; at += k) {
      for (size_t i = 0; i < k; ++i) row[i] = get(x, static_cast<int64_t>(at + i));
      for (size_t j = 0; j < n; ++j) sums.push_back(sum4(o, row.data(), j, false, wide));
    }
    const std::vector<uint32_t> blobs = {p_.blob(o.packed.data(), o.packed.size()),
                                         p_.blob(bias.data(), bias.size() * sizeof(float))};
    end(StepKind::kGemmGroups, x, c,
        {{"rows", rows},
         {"k", static_cast<int64_t>(k)},
         {"columns", c.out_c},
         {"group", group},
         {"zero_points", zero_points},
         {"activation_bits", wide ? 16 : 8},
         {"unit", o.unit}},
        blobs, bias, sums, y);
    return y;
  }

  /// (batch, rows, k) and (batch, columns, k).
  uint32_t matmul(uint32_t a, uint32_t b) {
    const auto sa = p_.index.tensors[a].shape, sb = p_.index.tensors[b].shape;
    const int64_t rows = sa[1], k = sa[2], columns = sb[1];
    const uint32_t y = p_.tensor(DType::kF32, {sa[0], rows, columns});
    p_.step(StepKind::kMatmulF32, {a, b}, y,
            {{"batch", {1, 1, 1, sa[0]}},
             {"rows", rows},
             {"k", k},
             {"columns", columns},
             {"a_batch", {0, 0, 0, rows * k}},
             {"b_batch", {0, 0, 0, columns * k}},
             {"c_batch", {0, 0, 0, rows * columns}},
             {"a_row", k},
             {"a_k", 1},
             {"b_k", 1},
             {"b_column", k},
             {"c_row", columns},
             {"scale", 0.5f}});
    for (int64_t i = 0; i < sa[0] * rows * columns; ++i) {
      const int64_t batch = i / (rows * columns), row = i / columns;
      float sum = 0.0f;
      for (int64_t j = 0; j < k; ++j) {
        sum = std::fma(get(a, row * k + j), get(b, (batch * columns + i % columns) * k + j), sum);
      }
      put(y, i, sum * 0.5f);
    }
    return y;
  }

  /// Each row attends to the first key alone, by a mask that leaves out the others: their exponentials are zero.
  uint32_t attention(uint32_t x) {
    const auto s = p_.index.tensors[x].shape;
    const int64_t n = s[0], depth = s[1];
    const uint32_t mask = p_.input({1, n}), y = p_.tensor(DType::kF32, {n, depth});
    for (int64_t i = 0; i < n; ++i) put(mask, i, i == 0 ? 0.0f : -std::numeric_limits<float>::infinity());
    const std::vector<int64_t> none = {0, 0, 0, 0};
    p_.step(StepKind::kAttentionF32, {x, x, x, mask}, y,
            {{"batch", {1, 1, 1, 1}},
             {"rows", n},
             {"keys", n},
             {"depth", depth},
             {"value_depth", depth},
             {"q_batch", none},
             {"k_batch", none},
             {"v_batch", none},
             {"mask_batch", none},
             {"y_batch", none},
             {"q_row", depth},
             {"k_row", depth},
             {"k_depth", 1},
             {"v_row", depth},
             {"mask_row", 0},
             {"mask_column", 1},
             {"y_row", depth},
             {"scale", 0.125f}});
    for (int64_t i = 0; i < n * depth; ++i) put(y, i, std::fma(1.0f, get(x, i % depth), 0.0f) / 1.0f);
    return y;
  }

 private:
  static std::vector<float> uniform_floats(int64_t count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (float& v : values) v = uniform(-1.0f, 1.0f);
    return values;
  }
  float get(uint32_t id, int64_t i) const {
    float v;
    std::memcpy(&v, p_.expected[id].data() + static_cast<size_t>(i) * sizeof v, sizeof v);
    return v;
  }
  void put(uint32_t id, int64_t i, float v) {
    std::memcpy(p_.expected[id].data() + static_cast<size_t>(i) * sizeof v, &v, sizeof v);
  }

  static Arguments window(const Sides3& in, const FloatConv& c) {
    const auto list = [](const Sides3& s) { return std::vector<int64_t>(s.begin(), s.end()); };
    return {{"batch", 1},
            {"in", list(in)},
            {"out", list(c.out)},
            {"kernel", list(c.kernel)},
            {"stride", list(c.stride)},
            {"dilation", list(c.dilation)},
            {"pad", list(c.pad)}};
  }

  /// Weights (out_c, k) packed, a clamp at zero, and the result.
  void finish(StepKind kind, uint32_t x, const FloatConv& c, Arguments arguments, int64_t groups, int64_t k,
              const std::vector<float>& w, const std::vector<float>& bias, const std::vector<float>& sums, uint32_t y) {
    const int64_t parts = c.depthwise ? 1 : groups, part = c.out_c / parts;
    const auto padded = static_cast<int64_t>(round_up(static_cast<size_t>(part), kStrip));
    std::vector<float> packed(static_cast<size_t>(parts * k * padded)),
        padded_bias(static_cast<size_t>(parts * padded));
    for (int64_t n = 0; n < c.out_c; ++n) {
      const int64_t group = n / part, column = n % part;
      padded_bias[static_cast<size_t>(group * padded + column)] = bias[static_cast<size_t>(n)];
      for (int64_t i = 0; i < k; ++i) {
        const int64_t strip = (column / 16 * k + i) * 16 + column % 16, line = i * padded + column;
        packed[static_cast<size_t>(group * k * padded + (c.depthwise ? line : strip))] =
            w[static_cast<size_t>(n * k + i)];
      }
    }
    const uint32_t weights = p_.blob(packed.data(), packed.size() * sizeof(float));
    end(kind, x, c, std::move(arguments), {weights, p_.blob(padded_bias.data(), padded_bias.size() * sizeof(float))},
        bias, sums, y);
  }

  /// The step, and what bias, addend and a clamp at zero make of the sums.
  void end(StepKind kind, uint32_t x, const FloatConv& c, Arguments arguments, std::vector<uint32_t> blobs,
           const std::vector<float>& bias, const std::vector<float>& sums, uint32_t y) {
    arguments.insert(arguments.end(), {{"activation", 0},
                                       {"addend_first", c.addend >= 0},
                                       {"lo", 0.0f},
                                       {"hi", std::numeric_limits<float>::infinity()}});
    std::vector<uint32_t> in = {x};
    if (c.addend >= 0) in.push_back(static_cast<uint32_t>(c.addend));
    p_.step(kind, in, y, arguments).blobs = std::move(blobs);
    for (int64_t i = 0; i < static_cast<int64_t>(sums.size()); ++i) {
      float v = sums[static_cast<size_t>(i)] + bias[static_cast<size_t>(i % c.out_c)];
      if (c.addend >= 0) v += get(static_cast<uint32_t>(c.addend), i);
      v = std::max(v, 0.0f);
      if (c.dtype == DType::kF32) {
        put(y, i, v);
      } else {
        const QuantParams q = {0.05f, 3, c.dtype == DType::kS8 ? Sign::kS8 : Sign::kU8};
        const float low = static_cast<float>((q.sign == Sign::kU8 ? 0 : -128) - q.zero_point);
        p_.expected[y][static_cast<size_t>(i)] = quantized(v, q, low, low + 255);
      }
    }
  }

  ProgramBuilder& p_;
};

}  // namespace ek::test
