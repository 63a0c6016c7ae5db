// exp_scores: a row of scores becomes exponentials, in two passes over a row that lies in the L1.
//
// Edges      lanes past the row's end become minus infinity, which no maximum takes and whose exponential adds zero.
// NaN        a score that is a NaN stays one and makes the sum one; so does a row without a score above minus infinity.
#pragma once

#include "kernels/attention_f32.h"
#include "kernels/functions.inl"

namespace ek {
namespace {

constexpr size_t kScoreLanes = 16;

float exp_scores(const F32Scores& row) {
  const F32 scale = set1_f32(row.scale), lowest = set1_f32(-__builtin_inff());
  const F32 same = set1_f32(row.mask == nullptr ? 0.0f : row.mask[0]);
  const bool adds = row.mask != nullptr;
  F32 top = lowest;
  for (size_t i = 0; i < row.n; i += kScoreLanes) {
    const size_t left = row.n - i;
    F32 x = mul_f32(load_f32(row.scores + i), scale);
    if (adds) x = add_f32(x, row.mask_is_row ? load_f32_n(row.mask + i, left) : same);
    store_f32(row.scores + i, x);
    if (left < kScoreLanes) {
      for (size_t j = left; j < kScoreLanes; ++j) row.scores[i + j] = -__builtin_inff();
      x = load_f32(row.scores + i);
    }
    top = max_f32(x, top);
  }
  const F32 largest = set1_f32(max_lane(top));
  F32 sum = set1_f32(0.0f);
  for (size_t i = 0; i < row.n; i += kScoreLanes) {
    const F32 e = exp_below_zero(sub_f32(load_f32(row.scores + i), largest));
    store_f32(row.scores + i, e);
    sum = add_f32(sum, e);
  }
  return sum_lanes(sum);
}

void divide_f32(float* y, size_t n, float divisor) {
  for (size_t i = 0; i < n; i += kScoreLanes)
    store_f32_n(y + i, div_f32(load_f32_n(y + i, n - i), set1_f32(divisor)), n - i);
}

}  // namespace
}  // namespace ek
