// Attention on floats: what happens to a row of scores.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"

namespace ek {

/// A row of scores, in memory that goes on to a multiple of 16.
struct F32Scores {
  float* scores;  // [n]; becomes the exponentials, and zeros behind them
  size_t n;
  float scale;
  const float* mask;  // [n], or one for all; null: none
  bool mask_is_row;
};

struct F32AttentionKernels {
  // x = scores * scale + mask; scores = exp(x - the largest x that is no NaN). Returns their sum: lane l of 16 takes
  // those with i = l mod 16, ascending, and then sum_lanes.
  EK_KERNEL float (*exp_scores)(const F32Scores& row);
  EK_KERNEL void (*divide_f32)(float* y, size_t n, float divisor);  // y /= divisor
};

#define EK_F32_ATTENTION_KERNELS(X) X(exp_scores) X(divide_f32)

}  // namespace ek
