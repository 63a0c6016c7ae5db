// Products of 16-bit activations, and what they give, from exact integers.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "float_steps.h"
#include "gemm/pack.h"
#include "packed_groups.h"
#include "program_builder.h"
#include "reference.h"

namespace ek::test {

class WideProducts {
 public:
  explicit WideProducts(ProgramBuilder& program) : p_(program) {}

  uint32_t gemm(uint32_t x, int64_t rows, int64_t columns) {
    const std::vector<int64_t> steps = steps_of(x);
    const int64_t k = static_cast<int64_t>(steps.size()) / rows;
    const std::vector<int8_t> w = random_weights(static_cast<size_t>(columns * k));
    std::vector<int64_t> sums;
    for (int64_t i = 0; i < rows * columns; ++i) {
      int64_t sum = 0;
      for (int64_t j = 0; j < k; ++j) sum += steps[at(i / columns * k + j)] * w[at(i % columns * k + j)];
      sums.push_back(sum);
    }
    const uint32_t y = p_.tensor(DType::kU8, {rows, columns}, 0.05f, 3);
    end(StepKind::kGemmWide, x, {{"rows", rows}, {"k", k}, {"columns", columns}}, packed(w, 1, columns, 1, k), 1, sums,
        y);
    return y;
  }

  /// x is (1, height, width, channels), and a window of 3 x 3 lies a pixel over its edge.
  uint32_t conv(uint32_t x, int64_t out_c, int64_t groups, bool depthwise) {
    const auto in = p_.index.tensors[x].shape;
    const int64_t height = in[1], width = in[2], in_c = in[3], taps = 9, of = in_c / groups, part = out_c / groups;
    const std::vector<int64_t> steps = steps_of(x);
    const std::vector<int8_t> w = random_weights(static_cast<size_t>(out_c * taps * of));  // (channel, tap, k)
    std::vector<int64_t> sums;
    for (int64_t i = 0; i < height * width * out_c; ++i) {
      const int64_t n = i % out_c, row = i / out_c / width, column = i / out_c % width;
      int64_t sum = 0;
      for (int64_t tap = 0; tap < taps; ++tap) {
        const int64_t y = row + tap / 3 - 1, z = column + tap % 3 - 1;
        const bool inside = y >= 0 && y < height && z >= 0 && z < width;
        for (int64_t k = 0; k < of && inside; ++k) {
          sum += steps[at(((y * width + z) * in_c) + n / part * of + k)] * w[at((n * taps + tap) * of + k)];
        }
      }
      sums.push_back(sum);
    }
    const uint32_t y = p_.tensor(DType::kF32, {1, height, width, out_c});
    Arguments arguments = {{"batch", 1},      {"in_h", height}, {"in_w", width}, {"out_h", height}, {"out_w", width},
                           {"kernel_h", 3},   {"kernel_w", 3},  {"stride_h", 1}, {"stride_w", 1},   {"dilation_h", 1},
                           {"dilation_w", 1}, {"pad_top", 1},   {"pad_left", 1}};
    if (depthwise) {
      arguments.push_back({"channels", out_c});
      AlignedBuffer bytes(depthwise_packed_bytes(at(out_c), at(taps)));
      pack_depthwise(at(out_c), at(taps), w.data(), taps, 1, bytes.data());
      const uint32_t weights = p_.blob(bytes.data(), depthwise_packed_bytes(at(out_c), at(taps)));
      end(StepKind::kDepthwiseWide, x, arguments, weights, 1, sums, y);
    } else {
      arguments.insert(arguments.end(), {{"in_channels", in_c}, {"out_channels", out_c}, {"groups", groups}});
      end(StepKind::kConvWide, x, arguments, packed(w, groups, part, taps, of), groups, sums, y);
    }
    return y;
  }

 private:
  static constexpr float kScale = 0.0001f;
  static constexpr int64_t kZeroPoint = 30000;

  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  /// Floats as steps from the zero point.
  std::vector<int64_t> steps_of(uint32_t x) const {
    std::vector<int64_t> steps;
    for (const float v : items_of<float>(p_, x)) {
      const float ratio = std::min(std::max(v / kScale, static_cast<float>(-kZeroPoint)), 65535.0f - kZeroPoint);
      steps.push_back(rne(ratio));
    }
    return steps;
  }

  uint32_t packed(const std::vector<int8_t>& w, int64_t groups, int64_t columns, int64_t taps, int64_t k) {
    const AlignedBuffer all = pack_groups(w.data(), at(groups), {at(columns), at(taps), at(k)});
    return p_.blob(all.data(), all.size());
  }

  /// The step, and what multiplier, bias and a clamp at zero make of the sums.
  void end(StepKind kind, uint32_t x, Arguments arguments, uint32_t weights, int64_t groups,
           const std::vector<int64_t>& sums, uint32_t y) {
    const TensorDef result = p_.index.tensors[y];
    const int64_t channels = result.shape.back(), part = channels / groups;
    const size_t padded = round_up(at(part), kStrip);
    std::vector<float> multiplier(padded * at(groups)), bias(padded * at(groups));
    const auto place = [&](int64_t n) { return at(n / part) * padded + at(n % part); };
    for (int64_t n = 0; n < channels; ++n) {
      multiplier[place(n)] = uniform(1e-7f, 1e-6f);
      bias[place(n)] = uniform(-0.5f, 0.5f);
    }
    arguments.insert(arguments.end(), {{"scale", kScale},
                                       {"zero_point", kZeroPoint},
                                       {"signed", false},
                                       {"activation", 0},
                                       {"addend_first", false},
                                       {"lo", 0.0f},
                                       {"hi", std::numeric_limits<float>::infinity()}});
    p_.step(kind, {x}, y, arguments).blobs = {weights, p_.blob(multiplier.data(), multiplier.size() * sizeof(float)),
                                              p_.blob(bias.data(), bias.size() * sizeof(float))};
    std::vector<float> reals;
    for (size_t i = 0; i < sums.size(); ++i) {
      const size_t n = place(static_cast<int64_t>(i) % channels);
      reals.push_back(std::max(static_cast<float>(sums[i]) * multiplier[n] + bias[n], 0.0f));
    }
    if (result.dtype == DType::kF32) return expect(p_, y, reals);
    for (size_t i = 0; i < reals.size(); ++i) {
      p_.expected[y][i] =
          quantized(reals[i], {result.scale, result.zero_point, Sign::kU8}, static_cast<float>(-result.zero_point),
                    static_cast<float>(255 - result.zero_point));
    }
  }

  ProgramBuilder& p_;
};

}  // namespace ek::test
