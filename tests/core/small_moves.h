// Steps that move items and sample images of float32, each with the slow way beside it.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "float_steps.h"
#include "program_builder.h"
#include "small_recurrent.h"

namespace ek::test {

/// A tensor of integers that a step copies.
inline uint32_t integers(ProgramBuilder& p, const std::vector<int64_t>& values) {
  const uint32_t y = p.tensor(DType::kI64, {static_cast<int64_t>(values.size())});
  expect(p, y, values);
  p.step(StepKind::kConstant, {}, y).blobs = {p.blob(values.data(), values.size() * sizeof(int64_t))};
  return y;
}

/// x as (1, 3, 11, 3) pixels of three channels, windows of (2, 3, 2), a row of padding around the second axis.
inline uint32_t pool_f32(ProgramBuilder& p, uint32_t x, bool average) {
  const int64_t in[3] = {3, 11, 3}, out[3] = {2, 6, 2}, kernel[3] = {2, 3, 2}, stride[3] = {1, 2, 1},
                pad[3] = {0, 1, 0};
  const auto list = [](const int64_t(&v)[3]) { return std::vector<int64_t>{v[0], v[1], v[2]}; };
  const uint32_t y = p.tensor(DType::kF32, {1, out[0], out[1], out[2], 3});
  p.step(StepKind::kPoolF32, {x}, y,
         {{"batch", 1},
          {"in", list(in)},
          {"out", list(out)},
          {"kernel", list(kernel)},
          {"stride", list(stride)},
          {"dilation", std::vector<int64_t>{1, 1, 1}},
          {"pad", list(pad)},
          {"channels", 3},
          {"average", average},
          {"count_include_pad", false},
          {"power", 0.0f}});
  const std::vector<float> from = items_of<float>(p, x);
  std::vector<float> result;
  for (int64_t i = 0; i < out[0] * out[1] * out[2] * 3; ++i) {
    const int64_t at[3] = {i / 3 / out[2] / out[1], i / 3 / out[2] % out[1], i / 3 % out[2]};
    float top = -HUGE_VALF, sum = 0, count = 0;
    for (int64_t z = at[0]; z < at[0] + kernel[0]; ++z) {
      for (int64_t y0 = at[1] * 2 - 1; y0 < at[1] * 2 - 1 + kernel[1]; ++y0) {
        if (y0 < 0 || y0 >= in[1]) continue;
        float line = 0;
        for (int64_t w = at[2]; w < at[2] + kernel[2]; ++w) {
          const float v = from[static_cast<size_t>(((z * in[1] + y0) * in[2] + w) * 3 + i % 3)];
          top = std::max(top, v);
          line += v;
          ++count;
        }
        sum += line;
      }
    }
    result.push_back(average ? sum / count : top);
  }
  expect(p, y, result);
  return y;
}

/// x as (outer, n, inner) to five places along n, each between two; `codes`: to 8 bits.
inline uint32_t resample(ProgramBuilder& p, uint32_t x, int64_t outer, int64_t n, int64_t inner, bool codes = false) {
  constexpr float kScale = 0.03f;
  constexpr int kZero = 99;
  const uint32_t y =
      codes ? p.tensor(DType::kU8, {outer, 5, inner}, kScale, kZero) : p.tensor(DType::kF32, {outer, 5, inner});
  std::vector<int32_t> index;
  std::vector<float> weight;
  for (int i = 0; i < 10; ++i) {
    index.push_back(uniform(0, static_cast<int>(n) - 1));
    weight.push_back(uniform(-1.0f, 1.0f));
  }
  p.step(StepKind::kResample, {x}, y, {{"outer", outer}, {"n", n}, {"m", 5}, {"inner", inner}, {"taps", 2}}).blobs = {
      p.blob(index.data(), index.size() * 4), p.blob(weight.data(), weight.size() * 4)};
  std::vector<float> from;
  if (p.index.tensors[x].dtype == DType::kU8) {
    for (const uint8_t q : items_of<uint8_t>(p, x)) from.push_back(static_cast<float>(q - kZero) * kScale);
  } else {
    from = items_of<float>(p, x);
  }
  std::vector<float> result;
  std::vector<uint8_t> quantized;
  for (int64_t i = 0; i < outer * 5 * inner; ++i) {
    float sum = 0;
    for (int64_t t = 0; t < 2; ++t) {
      const auto tap = static_cast<size_t>(i / inner % 5 * 2 + t);
      sum = std::fma(weight[tap], from[static_cast<size_t>((i / inner / 5 * n + index[tap]) * inner + i % inner)], sum);
    }
    result.push_back(sum);
    quantized.push_back(static_cast<uint8_t>(std::nearbyint(std::clamp(sum / kScale, -99.0f, 156.0f)) + kZero));
  }
  codes ? expect(p, y, quantized) : expect(p, y, result);
  return y;
}

/// Rows and columns of a matrix of 4-byte items, some again, some backwards, with fillers between them.
inline uint32_t pick(ProgramBuilder& p, uint32_t x, int64_t rows, int64_t columns) {
  std::vector<int32_t> table(6, 0);
  std::vector<int32_t> down = {-1, 1, 1, 0}, across;
  for (int64_t c = columns; c-- > 0;) across.push_back(c % 4 == 2 ? -1 : static_cast<int32_t>(c));
  table.insert(table.end(), down.begin(), down.end());
  table.insert(table.end(), across.begin(), across.end());
  const uint32_t y = p.tensor(p.index.tensors[x].dtype, {4, columns});
  p.step(StepKind::kPick, {x}, y,
         {{"x_shape", {1, 1, 1, 1, 1, 1, rows, columns}},
          {"y_shape", {1, 1, 1, 1, 1, 1, 4, columns}},
          {"item_bytes", 4},
          {"filler", 0x3F800000}})
      .blobs = {p.blob(table.data(), table.size() * 4)};
  const std::vector<float> from = items_of<float>(p, x);
  std::vector<float> result;
  for (const int32_t r : down) {
    for (const int32_t c : across) {
      result.push_back(r < 0 || c < 0 ? 1.0f : from[static_cast<size_t>(r * columns + c)]);
    }
  }
  expect(p, y, result);
  return y;
}

/// (a, b, c) -> (c, a, b).
inline uint32_t permute(ProgramBuilder& p, uint32_t x, int64_t a, int64_t b, int64_t c) {
  const uint32_t y = p.tensor(DType::kF32, {c, a, b});
  p.step(StepKind::kPermute, {x}, y,
         {{"x_shape", {1, 1, 1, 1, 1, a, b, c}}, {"perm", {0, 1, 2, 3, 4, 7, 5, 6}}, {"item_bytes", 4}});
  const std::vector<float> from = items_of<float>(p, x);
  std::vector<float> result;
  for (int64_t i = 0; i < a * b * c; ++i) result.push_back(from[static_cast<size_t>(i % (a * b) * c + i / (a * b))]);
  expect(p, y, result);
  return y;
}

/// The three gathers, of rows of x as (rows, columns).
inline std::vector<uint32_t> gathers(ProgramBuilder& p, uint32_t x, int64_t rows, int64_t columns) {
  const std::vector<float> from = items_of<float>(p, x);
  const auto at = [&](int64_t r, int64_t c) { return from[static_cast<size_t>((r + rows) % rows * columns + c)]; };
  const std::vector<int64_t> picked = {1, -1, 0, -rows};
  const uint32_t indices = integers(p, picked);
  std::vector<uint32_t> results;
  for (const bool constant : {false, true}) {
    const uint32_t y = p.tensor(DType::kF32, {4, columns});
    Step& s = p.step(StepKind::kGather, constant ? std::vector<uint32_t>{indices} : std::vector<uint32_t>{x, indices},
                     y, {{"outer", 1}, {"n", rows}, {"inner_bytes", columns * 4}, {"count", 4}});
    if (constant) s.blobs = {p.blob(from.data(), from.size() * 4)};
    std::vector<float> result;
    for (const int64_t r : picked) {
      for (int64_t c = 0; c < columns; ++c) result.push_back(at(r, c));
    }
    expect(p, y, result);
    results.push_back(y);
  }
  const uint32_t elements = p.tensor(DType::kF32, {2, 2});
  p.step(StepKind::kGatherElements, {x, indices}, elements,
         {{"y_shape", {1, 1, 1, 1, 1, 1, 2, 2}},
          {"x_step", {0, 0, 0, 0, 0, 0, 0, 1}},
          {"n", rows},
          {"axis_step", columns},
          {"item_bytes", 4}});
  expect(p, elements, std::vector<float>{at(1, 0), at(-1, 1), at(0, 0), at(-rows, 1)});
  const uint32_t named = p.tensor(DType::kF32, {2});
  p.step(
      StepKind::kGatherNd, {x, indices}, named,
      {{"batches", 1}, {"count", 2}, {"depth", 2}, {"sides", {rows, columns, 1, 1, 1, 1, 1, 1}}, {"slice_bytes", 4}});
  expect(p, named, std::vector<float>{at(1, columns - 1), at(0, columns - rows)});
  results.insert(results.end(), {elements, named});
  return results;
}

/// Both scatters into x as (rows, columns): an index twice, one from the end.
inline std::vector<uint32_t> scatters(ProgramBuilder& p, uint32_t x, int64_t rows, int64_t columns) {
  const std::vector<float> from = items_of<float>(p, x);
  const uint32_t indices = integers(p, {1, -1, 1, 0}), updates = p.constant({4});
  const std::vector<float> given = items_of<float>(p, updates);
  const uint32_t elements = p.tensor(DType::kF32, {rows, columns}), named = p.tensor(DType::kF32, {rows, columns});
  p.step(StepKind::kScatterElements, {x, indices, updates}, elements,
         {{"shape", {1, 1, 1, 1, 1, 1, 4, 1}},
          {"y_step", {0, 0, 0, 0, 0, 0, 0, 1}},
          {"n", rows},
          {"axis_step", columns},
          {"how", 1}});
  p.step(StepKind::kScatterNd, {x, indices, updates}, named,
         {{"count", 4}, {"depth", 1}, {"sides", {rows * columns, 1, 1, 1, 1, 1, 1, 1}}, {"slice", 1}, {"how", 0}});
  std::vector<float> sums = from, put = from;
  for (size_t i = 0; i < 4; ++i) {
    const int64_t place[4] = {1, -1, 1, 0};
    sums[static_cast<size_t>((place[i] + rows) % rows * columns)] += given[i];
    put[static_cast<size_t>((place[i] + rows * columns) % (rows * columns))] = given[i];
  }
  expect(p, elements, sums);
  expect(p, named, put);
  return {elements, named};
}

/// x as an image of 3 by 11 pixels, at four places between them, some of which may lie outside.
inline uint32_t grid_sample(ProgramBuilder& p, uint32_t x) {
  constexpr int kHeight = 3, kWidth = 11, kChannels = 9;
  const uint32_t grid = p.constant({4, 2}), y = p.tensor(DType::kF32, {4, kChannels});
  p.step(StepKind::kGridSample, {x, grid}, y,
         {{"batch", 1},
          {"height", kHeight},
          {"width", kWidth},
          {"points", 4},
          {"channels", kChannels},
          {"mode", 0},
          {"padding", 0},
          {"align_corners", false}});
  const std::vector<float> from = items_of<float>(p, x), places = items_of<float>(p, grid);
  std::vector<float> result;
  for (size_t i = 0; i < 4 * kChannels; ++i) {
    const float across = ((places[i / kChannels * 2] + 1) * kWidth - 1) / 2;
    const float down = ((places[i / kChannels * 2 + 1] + 1) * kHeight - 1) / 2;
    const float left = std::floor(across), top = std::floor(down);
    float sum = 0;
    for (int tap = 0; tap < 4; ++tap) {
      const float row = top + static_cast<float>(tap / 2), column = left + static_cast<float>(tap % 2);
      if (row < 0 || row >= kHeight || column < 0 || column >= kWidth) continue;
      const float weight =
          (tap / 2 == 1 ? down - top : top + 1 - down) * (tap % 2 == 1 ? across - left : left + 1 - across);
      const auto pixel = static_cast<size_t>(row) * kWidth + static_cast<size_t>(column);
      sum = std::fma(weight, from[pixel * kChannels + i % kChannels], sum);
    }
    result.push_back(sum);
  }
  expect(p, y, result);
  return y;
}

/// All of them on a float32 tensor of 297 items; what they give.
inline std::vector<uint32_t> moves_of(ProgramBuilder& p, uint32_t x) {
  std::vector<uint32_t> results = {pool_f32(p, x, false),
                                   pool_f32(p, x, true),
                                   resample(p, x, 3, 33, 3),
                                   resample(p, x, 1, 3, 99),
                                   pick(p, x, 3, 99),
                                   permute(p, x, 3, 11, 9),
                                   resample(p, resample(p, x, 1, 3, 99, true), 5, 1, 99)};
  for (const uint32_t id : gathers(p, x, 3, 99)) results.push_back(id);
  for (const uint32_t id : scatters(p, x, 27, 11)) results.push_back(id);
  results.push_back(grid_sample(p, x));
  results.insert(results.end(), {recurrent(p, x, 0, false), recurrent(p, x, 1, false), recurrent(p, x, 1, true),
                                 recurrent(p, x, 2, false), recurrent_dynamic(p, x, 0, false),
                                 recurrent_dynamic(p, x, 1, false), recurrent_dynamic(p, x, 1, true)});
  return results;
}

}  // namespace ek::test
