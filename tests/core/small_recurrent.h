// LSTM, GRU and RNN by float32 and by int8 weights, with the slow way beside them.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "base/buffer.h"
#include "float_steps.h"
#include "gemm/pack.h"
#include "program_builder.h"
#include "reference.h"

namespace ek::test {

/// A recurrent layer over x as (3, 3, 33), two directions of five units, gates of Relu: `cell` as Cell numbers them.
struct SmallRecurrent {
  static constexpr size_t kSteps = 3, kBatch = 3, kInputs = 33, kHidden = 5, kPadded = 16, kDirections = 2;

  ProgramBuilder& p;
  uint32_t x;
  size_t cell;
  bool linear_before_reset;
  size_t gates = cell == 0 ? 4 : cell == 1 ? 3 : 1, width = gates * kPadded, states = cell == 0 ? 2 : 1;

  static std::vector<float> some(size_t n, float low = -0.5f) {
    std::vector<float> values(n);
    for (float& v : values) v = uniform(low, 0.5f);
    return values;
  }

  /// The step, its weights of `kind`, and what it gives: product(v, direction, which, gate, unit) of W (0) or R (1).
  template <typename Product>
  uint32_t emit(StepKind kind, std::vector<uint32_t> blobs, Product&& product) {
    const std::vector<float> from = items_of<float>(p, x);
    const uint32_t y =
        p.tensor(DType::kF32, {static_cast<int64_t>((kSteps + states) * kDirections * kBatch * kHidden)});
    p.step(kind, {x}, y,
           {{"cell", cell},
            {"steps", kSteps},
            {"batch", kBatch},
            {"inputs", kInputs},
            {"hidden", kHidden},
            {"directions", kDirections},
            {"reverse", false},
            {"linear_before_reset", linear_before_reset},
            {"has_lengths", false},
            {"has_h0", false},
            {"has_c0", false},
            {"activations", {2, 2, 2, 2, 2, 2}},
            {"clip", 0.0f}})
        .blobs = std::move(blobs);
    const auto relu = [](float v) { return std::max(v, 0.0f); };
    std::vector<float> result((kSteps + states) * kDirections * kBatch * kHidden);
    for (size_t row = 0; row < kDirections * kBatch; ++row) {
      const size_t d = row / kBatch, b = row % kBatch;
      std::array<float, kHidden> h{}, c{}, z{}, reset{}, before{};
      for (size_t step = 0; step < kSteps; ++step) {
        const size_t t = d == 0 ? step : kSteps - 1 - step;
        const float* const in = from.data() + (t * kBatch + b) * kInputs;
        const auto of_x = [&](size_t gate, size_t i) { return product(in, d, 0, gate, i); };
        const auto of_h = [&](size_t gate, size_t i) { return product(before.data(), d, 1, gate, i); };
        before = h;
        for (size_t i = 0; i < kHidden && cell == 1; ++i) {
          z[i] = relu(of_x(0, i) + of_h(0, i));
          reset[i] = relu(of_x(1, i) + of_h(1, i));
        }
        for (size_t i = 0; i < kHidden && cell == 1 && !linear_before_reset; ++i) before[i] *= reset[i];
        for (size_t i = 0; i < kHidden; ++i) {
          if (cell == 0) {
            const float kept = relu(of_x(2, i) + of_h(2, i)) * c[i];
            c[i] = kept + relu(of_x(0, i) + of_h(0, i)) * relu(of_x(3, i) + of_h(3, i));
            h[i] = relu(of_x(1, i) + of_h(1, i)) * relu(c[i]);
          } else if (cell == 1) {
            const float fresh = relu(of_x(2, i) + (linear_before_reset ? reset[i] * of_h(2, i) : of_h(2, i)));
            const float kept = z[i] * h[i];
            h[i] = (1.0f - z[i]) * fresh + kept;
          } else {
            h[i] = relu(of_x(0, i) + of_h(0, i));
          }
        }
        std::copy(h.begin(), h.end(), result.begin() + static_cast<ptrdiff_t>((t * 6 + row) * kHidden));
      }
      std::copy(h.begin(), h.end(), result.begin() + static_cast<ptrdiff_t>((kSteps * 6 + row) * kHidden));
      if (cell != 0) continue;
      std::copy(c.begin(), c.end(), result.begin() + static_cast<ptrdiff_t>(((kSteps + 1) * 6 + row) * kHidden));
    }
    expect(p, y, result);
    return y;
  }
};

inline uint32_t recurrent(ProgramBuilder& p, uint32_t x, size_t cell, bool linear_before_reset) {
  SmallRecurrent layer{p, x, cell, linear_before_reset};
  constexpr size_t kPadded = SmallRecurrent::kPadded;
  const size_t depth[] = {SmallRecurrent::kInputs, SmallRecurrent::kHidden}, width = layer.width;
  const std::vector<float> weights[] = {layer.some(2 * depth[0] * width), layer.some(2 * depth[1] * width)},
                           bias = layer.some(2 * 2 * width);
  const std::vector<uint32_t> blobs = {p.blob(weights[0].data(), weights[0].size() * 4),
                                       p.blob(weights[1].data(), weights[1].size() * 4),
                                       p.blob(bias.data(), bias.size() * 4)};
  return layer.emit(StepKind::kRecurrent, blobs, [&](const float* v, size_t d, size_t which, size_t gate, size_t unit) {
    const size_t k = depth[which];
    const float* const w = weights[which].data() + d * k * width;
    float sum = 0;
    for (size_t i = 0; i < k; ++i) sum = std::fma(v[i], w[(gate * k + i) * kPadded + unit], sum);
    return sum + bias[(2 * d + which) * width + gate * kPadded + unit];
  });
}

/// By int8 weights, and rows that the step quantizes, each by its largest.
inline uint32_t recurrent_dynamic(ProgramBuilder& p, uint32_t x, size_t cell, bool linear_before_reset) {
  SmallRecurrent layer{p, x, cell, linear_before_reset};
  constexpr size_t kPadded = SmallRecurrent::kPadded;
  const size_t depth[] = {SmallRecurrent::kInputs, SmallRecurrent::kHidden}, width = layer.width;
  // (direction, gate, unit, k)
  const std::vector<int8_t> weights[] = {random_weights(2 * depth[0] * width), random_weights(2 * depth[1] * width)};
  const std::vector<float> bias = layer.some(2 * 2 * width);
  std::vector<float> scale = layer.some(2 * 2 * width, 0.1f);
  for (float& s : scale) s /= 50.0f;
  std::vector<uint32_t> blobs;
  for (size_t which = 0; which < 2; ++which) {
    const size_t at_once = which == 1 && cell == 1 && !linear_before_reset ? 2 : layer.gates;
    std::vector<uint8_t> all;
    for (size_t d = 0; d < 2; ++d) {
      for (const size_t first : {size_t{0}, at_once}) {
        const size_t count = first == 0 ? at_once : layer.gates - at_once, k = depth[which];
        const PackedShape shape{count * kPadded, 1, k};
        size_t bytes = 0;
        if (!shape.bytes(&bytes)) std::abort();
        if (count == 0) continue;
        AlignedBuffer packed(bytes);
        pack_weights(shape, weights[which].data() + (d * width + first * kPadded) * k, static_cast<ptrdiff_t>(k), 0, 1,
                     packed.data());
        all.insert(all.end(), packed.data(), packed.data() + bytes);
      }
    }
    blobs.push_back(p.blob(all.data(), all.size()));
  }
  blobs.push_back(p.blob(bias.data(), bias.size() * 4));
  blobs.push_back(p.blob(scale.data(), scale.size() * 4));
  return layer.emit(StepKind::kRecurrentDynamic, blobs,
                    [&](const float* v, size_t d, size_t which, size_t gate, size_t unit) {
                      const size_t k = depth[which], at = (2 * d + which) * width + gate * kPadded + unit;
                      const int8_t* const w = weights[which].data() + (d * width + gate * kPadded + unit) * k;
                      float peak = 0.0f;
                      for (size_t i = 0; i < k; ++i) peak = std::max(peak, std::fabs(v[i]));
                      const RowScale by(peak);
                      int32_t sum = 0;
                      for (size_t i = 0; i < k; ++i) sum += rne(v[i] * by.factor) * w[i];
                      return static_cast<float>(sum) * (by.scale * scale[at]) + bias[at];
                    });
}

}  // namespace ek::test
