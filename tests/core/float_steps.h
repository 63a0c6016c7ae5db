// Steps of chains, reductions and norms for a program, and what the slow way says they hold.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/map.h"
#include "kernels/rows.h"
#include "program_builder.h"

namespace ek::test {

template <typename T>
std::vector<T> items_of(const ProgramBuilder& p, uint32_t id) {
  std::vector<T> values(p.expected[id].size() / sizeof(T));
  std::memcpy(values.data(), p.expected[id].data(), p.expected[id].size());
  return values;
}
template <typename T>
void expect(ProgramBuilder& p, uint32_t id, const std::vector<T>& values) {
  std::memcpy(p.expected[id].data(), values.data(), p.expected[id].size());
}

inline std::vector<int64_t> sides_of(const std::vector<int64_t>& shape) {
  std::vector<int64_t> sides(8 - shape.size(), 1);
  sides.insert(sides.end(), shape.begin(), shape.end());
  return sides;
}
/// Steps of a dense tensor of this shape; or of its last axis alone, in any of those.
inline std::vector<int64_t> steps_of(const std::vector<int64_t>& shape, bool last_only = false) {
  std::vector<int64_t> steps(8, 0);
  int64_t step = 1;
  for (size_t axis = shape.size(); axis-- > 0; step *= shape[axis]) {
    if (!last_only || axis + 1 == shape.size()) steps[axis + 8 - shape.size()] = step;
  }
  return steps;
}
inline void add_instruction(std::vector<int64_t>& code, MapOp op, int64_t a, int64_t b = 0, int64_t c = 0) {
  code.insert(code.end(), {static_cast<int64_t>(op), a, b, c});
}

/// max(x * weights of the last axis + 0.25, 0).
inline uint32_t scaled(ProgramBuilder& p, uint32_t x, std::vector<float> weights) {
  const auto shape = p.index.tensors[x].shape;
  const uint32_t y = p.tensor(DType::kF32, shape);
  std::vector<int64_t> code = steps_of(shape), walk = steps_of(shape, true);
  code.insert(code.end(), walk.begin(), walk.end());
  add_instruction(code, MapOp::kMul, 0, 1);  // constants are values 2 and 3
  add_instruction(code, MapOp::kAdd, 4, 2);
  add_instruction(code, MapOp::kMax, 5, 3);
  p.step(StepKind::kMap, {x}, y,
         {{"shape", sides_of(shape)}, {"operands", 2}, {"constants", std::vector<float>{0.25f, 0.0f}}, {"code", code}})
      .blobs = {p.blob(weights.data(), weights.size() * sizeof(float))};
  std::vector<float> values = items_of<float>(p, x);
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = std::max(values[i] * weights[i % weights.size()] + 0.25f, 0.0f);
  expect(p, y, values);
  return y;
}

/// x > 0.25, as truths.
inline uint32_t positive(ProgramBuilder& p, uint32_t x) {
  const auto shape = p.index.tensors[x].shape;
  const uint32_t y = p.tensor(DType::kBool, shape);
  std::vector<int64_t> code = steps_of(shape);
  add_instruction(code, MapOp::kGreater, 0, 1);
  p.step(StepKind::kMap, {x}, y,
         {{"shape", sides_of(shape)}, {"operands", 1}, {"constants", std::vector<float>{0.25f}}, {"code", code}});
  std::vector<uint8_t> values;
  for (const float v : items_of<float>(p, x)) values.push_back(v > 0.25f);
  expect(p, y, values);
  return y;
}

/// (truth * 5 - weights of the last axis) mod 3, as int64.
inline uint32_t counted(ProgramBuilder& p, uint32_t truths, const std::vector<int64_t>& weights) {
  const auto shape = p.index.tensors[truths].shape;
  const uint32_t y = p.tensor(DType::kI64, shape);
  std::vector<int64_t> code = steps_of(shape), walk = steps_of(shape, true);
  code.insert(code.end(), walk.begin(), walk.end());
  code.insert(code.end(), 16, 0);
  add_instruction(code, MapOp::kMul, 0, 2);
  add_instruction(code, MapOp::kSub, 4, 1);
  add_instruction(code, MapOp::kMod, 5, 3);
  const int64_t five = 5, three = 3;
  const std::vector<uint32_t> blobs = {p.blob(weights.data(), weights.size() * 8), p.blob(&five, 8), p.blob(&three, 8)};
  p.step(StepKind::kMapI64, {truths}, y, {{"shape", sides_of(shape)}, {"operands", 4}, {"code", code}}).blobs = blobs;
  std::vector<int64_t> values;
  for (const uint8_t truth : items_of<uint8_t>(p, truths)) {
    values.push_back(((truth * 5 - weights[values.size() % weights.size()]) % 3 + 3) % 3);
  }
  expect(p, y, values);
  return y;
}

/// The same numbers as int32.
inline uint32_t shortened(ProgramBuilder& p, uint32_t x) {
  const auto shape = p.index.tensors[x].shape;
  const uint32_t y = p.tensor(DType::kI32, shape);
  std::vector<int64_t> code = steps_of(shape);
  add_instruction(code, MapOp::kCopy, 0);
  p.step(StepKind::kMapI64, {x}, y, {{"shape", sides_of(shape)}, {"operands", 1}, {"code", code}});
  const std::vector<int64_t> from = items_of<int64_t>(p, x);
  expect(p, y, std::vector<int32_t>(from.begin(), from.end()));
  return y;
}

struct Axis {
  int64_t outer, n, inner;
};
inline int64_t elements(const Axis& a) { return a.outer * a.n * a.inner; }

template <typename T>
uint32_t largest_of(ProgramBuilder& p, uint32_t x, const Axis& a) {
  const uint32_t y = p.tensor(p.index.tensors[x].dtype, {a.outer, a.inner});
  p.step(StepKind::kReduce, {x}, y, {{"outer", a.outer}, {"n", a.n}, {"inner", a.inner}, {"op", 2}});
  const std::vector<T> from = items_of<T>(p, x);
  std::vector<T> values;
  for (int64_t i = 0; i < a.outer * a.inner; ++i) {
    const int64_t first = i / a.inner * a.n * a.inner + i % a.inner;
    T best = from[static_cast<size_t>(first)];
    for (int64_t r = 1; r < a.n; ++r) best = std::max(best, from[static_cast<size_t>(first + r * a.inner)]);
    values.push_back(best);
  }
  expect(p, y, values);
  return y;
}

template <typename T>
uint32_t place_of_smallest(ProgramBuilder& p, uint32_t x, const Axis& a) {
  const uint32_t y = p.tensor(DType::kI64, {a.outer, a.inner});
  p.step(StepKind::kArgExtreme, {x}, y,
         {{"outer", a.outer}, {"n", a.n}, {"inner", a.inner}, {"largest", 0}, {"last", 1}});
  const std::vector<T> from = items_of<T>(p, x);
  std::vector<int64_t> values;
  for (int64_t i = 0; i < a.outer * a.inner; ++i) {
    const auto at = [&](int64_t r) {
      return from[static_cast<size_t>((i / a.inner * a.n + r) * a.inner + i % a.inner)];
    };
    int64_t best = 0;
    for (int64_t r = 1; r < a.n; ++r) best = at(r) <= at(best) ? r : best;
    values.push_back(best);
  }
  expect(p, y, values);
  return y;
}

/// Of an axis whose values are alike or lie so far below the largest that nothing is left of them.
inline uint32_t softmax_f32(ProgramBuilder& p, uint32_t x, const Axis& a) {
  const uint32_t y = p.tensor(DType::kF32, p.index.tensors[x].shape);
  p.step(StepKind::kSoftmaxF32, {x}, y, {{"outer", a.outer}, {"n", a.n}, {"inner", a.inner}, {"log", 0}});
  const std::vector<float> from = items_of<float>(p, x);
  std::vector<float> values(from.size());
  for (int64_t i = 0; i < a.outer * a.inner; ++i) {
    const auto at = [&](int64_t r) { return static_cast<size_t>((i / a.inner * a.n + r) * a.inner + i % a.inner); };
    float best = from[at(0)], count = 0;
    for (int64_t r = 1; r < a.n; ++r) best = std::max(best, from[at(r)]);
    for (int64_t r = 0; r < a.n; ++r) count += from[at(r)] == best ? 1.0f : 0.0f;
    for (int64_t r = 0; r < a.n; ++r) values[at(r)] = from[at(r)] == best ? 1.0f / count : 0.0f;
  }
  expect(p, y, values);
  return y;
}

/// 200 where it is true, else -200.
inline uint32_t far_apart(ProgramBuilder& p, uint32_t truths) {
  const auto shape = p.index.tensors[truths].shape;
  const uint32_t y = p.tensor(DType::kF32, shape);
  std::vector<int64_t> code = steps_of(shape);
  add_instruction(code, MapOp::kWhere, 0, 1, 2);
  p.step(StepKind::kMap, {truths}, y,
         {{"shape", sides_of(shape)},
          {"operands", 1},
          {"constants", std::vector<float>{200.0f, -200.0f}},
          {"code", code}});
  std::vector<float> values;
  for (const uint8_t truth : items_of<uint8_t>(p, truths)) values.push_back(truth != 0 ? 200.0f : -200.0f);
  expect(p, y, values);
  return y;
}

inline uint32_t normalized(ProgramBuilder& p, uint32_t x, int64_t rows) {
  const std::vector<float> from = items_of<float>(p, x);
  const size_t n = from.size() / static_cast<size_t>(rows);
  const uint32_t y = p.tensor(DType::kF32, p.index.tensors[x].shape);
  std::vector<float> scale(n), bias(n), values(from.size());
  for (size_t i = 0; i < n; ++i)
    scale[i] = 0.5f + static_cast<float>(i % 7), bias[i] = static_cast<float>(i % 3) - 1.0f;
  p.step(StepKind::kNormalize, {x}, y, {{"rows", rows}, {"columns", n}, {"epsilon", 1e-3f}, {"centered", 1}}).blobs = {
      p.blob(scale.data(), n * 4), p.blob(bias.data(), n * 4)};
  const auto by_lanes = [&](auto&& join) {
    float lanes[16] = {};
    for (size_t i = 0; i < n; ++i) join(lanes[i % 16], i);
    for (size_t half = 8; half > 0; half /= 2) {
      for (size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    return lanes[0] / static_cast<float>(n);
  };
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    const float* const row = from.data() + r * n;
    const float mean = by_lanes([&](float& lane, size_t i) { lane += row[i]; });
    const float variance =
        by_lanes([&](float& lane, size_t i) { lane = std::fma(row[i] - mean, row[i] - mean, lane); });
    const float factor = 1.0f / std::sqrt(variance + 1e-3f);
    for (size_t i = 0; i < n; ++i) values[r * n + i] = std::fma((row[i] - mean) * factor, scale[i], bias[i]);
  }
  expect(p, y, values);
  return y;
}

template <typename T>
uint32_t running_sum(ProgramBuilder& p, uint32_t x, const Axis& a) {
  const uint32_t y = p.tensor(p.index.tensors[x].dtype, p.index.tensors[x].shape);
  p.step(StepKind::kCumSum, {x}, y,
         {{"outer", a.outer}, {"n", a.n}, {"inner", a.inner}, {"exclusive", 0}, {"reverse", 1}});
  std::vector<T> values = items_of<T>(p, x);
  for (int64_t i = elements(a); i-- > 0;) {
    if (i / a.inner % a.n + 1 < a.n) values[static_cast<size_t>(i)] += values[static_cast<size_t>(i + a.inner)];
  }
  expect(p, y, values);
  return y;
}

/// The nearest float16 of what is below 65504: so many steps of its last place, of which subnormals have the smallest.
inline uint16_t float16_of(float x) {
  int exponent = 0;
  std::frexp(x, &exponent);
  exponent = std::max(exponent, -13);
  const int steps = static_cast<int>(std::nearbyint(std::ldexp(std::fabs(x), 11 - exponent)));
  return static_cast<uint16_t>((std::signbit(x) ? 0x8000 : 0) + ((exponent + 13) << 10) + steps);
}
inline float value_of_float16(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float size = exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                   : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return half >= 0x8000 ? -size : size;
}
/// The nearest bfloat16 of a number, and its value: the upper half of a float32.
inline uint16_t bfloat16_of(float x) {
  uint32_t bits = 0;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
inline float value_of_bfloat16(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float x = 0;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// An input of float16 times weights that are stored as float16, plus others that are stored as bfloat16: as bfloat16,
/// and of that a third in float16 and the same in float32.
template <typename Program>
std::vector<uint32_t> halves(Program& p) {
  constexpr size_t kColumns = 21, kRows = 9;
  const std::vector<int64_t> shape = {kRows, kColumns};
  const uint32_t x = p.tensor(DType::kF16, shape), sum = p.tensor(DType::kBf16, shape);
  const uint32_t third = p.tensor(DType::kF16, shape), wide = p.tensor(DType::kF32, shape);
  p.index.inputs.push_back(x);
  std::vector<uint16_t> given, factors, addends, sums, thirds;
  std::vector<float> values;
  for (size_t i = 0; i < kColumns; ++i) {
    factors.push_back(float16_of(static_cast<float>(i) * 0.375f - 2.0f));
    addends.push_back(bfloat16_of(static_cast<float>(i) - 7.5f));
  }
  for (size_t i = 0; i < kRows * kColumns; ++i) {
    given.push_back(float16_of(std::ldexp(static_cast<float>(i) - 80.0f, static_cast<int>(i % 19) - 25)));
    const size_t at = i % kColumns;
    sums.push_back(
        bfloat16_of(value_of_float16(given[i]) * value_of_float16(factors[at]) + value_of_bfloat16(addends[at])));
    thirds.push_back(float16_of(value_of_bfloat16(sums[i]) / 3.0f));
    values.push_back(value_of_float16(thirds[i]));
  }
  const std::vector<int64_t> dense = steps_of(shape), last = steps_of(shape, true);
  std::vector<int64_t> code = dense;
  code.insert(code.end(), last.begin(), last.end());
  code.insert(code.end(), last.begin(), last.end());
  add_instruction(code, MapOp::kMul, 0, 1);
  add_instruction(code, MapOp::kAdd, 3, 2);
  const std::vector<float> none, three = {3.0f};
  p.step(StepKind::kMap, {x}, sum, {{"shape", sides_of(shape)}, {"operands", 3}, {"constants", none}, {"code", code}})
      .blobs = {p.blob(factors.data(), factors.size() * 2, Storage::kF16),
                p.blob(addends.data(), addends.size() * 2, Storage::kBf16)};
  code = dense;
  add_instruction(code, MapOp::kDiv, 0, 1);
  p.step(StepKind::kMap, {sum}, third,
         {{"shape", sides_of(shape)}, {"operands", 1}, {"constants", three}, {"code", code}});
  add_instruction(code, MapOp::kRoundF16, 2);
  p.step(StepKind::kMap, {sum}, wide,
         {{"shape", sides_of(shape)}, {"operands", 1}, {"constants", three}, {"code", code}});
  expect(p, x, given);
  expect(p, sum, sums);
  expect(p, third, thirds);
  expect(p, wide, values);
  return {sum, third, wide};
}

/// All of them on one tensor of floats; what comes out last.
inline std::vector<uint32_t> add_float_steps(ProgramBuilder& p) {
  const uint32_t x = p.constant({3, 7, 21});
  std::vector<float> weights;
  std::vector<int64_t> whole;
  for (int i = 0; i < 21; ++i) weights.push_back(static_cast<float>(i - 9) / 8), whole.push_back(i * i - 100);
  const uint32_t chain = scaled(p, x, weights), truths = positive(p, chain), counts = counted(p, truths, whole);
  const uint32_t masks = far_apart(p, truths);
  std::vector<uint32_t> last = {largest_of<float>(p, chain, {3, 7, 21}),
                                largest_of<float>(p, chain, {21, 21, 1}),
                                largest_of<int64_t>(p, counts, {3, 7, 21}),
                                place_of_smallest<float>(p, chain, {3, 7, 21}),
                                place_of_smallest<int64_t>(p, counts, {3, 7, 21}),
                                shortened(p, counts),
                                softmax_f32(p, masks, {21, 21, 1}),
                                softmax_f32(p, masks, {3, 7, 21}),
                                normalized(p, x, 21),
                                running_sum<float>(p, x, {3, 7, 21}),
                                running_sum<int64_t>(p, counts, {1, 3, 147})};
  for (const uint32_t id : halves(p)) last.push_back(id);
  return last;
}

}  // namespace ek::test
