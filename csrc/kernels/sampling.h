// What takes float32 pixels of an image: the windows of a pooling, the weighted neighbors of a resizing.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"

namespace ek {

/// The part of a pooling window that lies inside its image: [count] rows of channels along three axes, the last one
/// first in memory.
struct PoolBox {
  const float* x;
  size_t count[3];
  size_t step[3];  // floats from row to row of channels
};

struct SamplingKernels {
  // y[c] = max over the box; a NaN is passed over, and of nothing else y is -infinity.
  EK_KERNEL void (*max_box_f32)(const PoolBox& box, size_t channels, float* y);
  // y[c] = (sum over the box) / divisor: along the last axis, ascending from zero; then those sums, ascending from
  // zero.
  EK_KERNEL void (*sum_box_f32)(const PoolBox& box, size_t channels, float divisor, float* y);
  // y[c] = (sum of |x|^p over the box)^(1 / p), summed as above: p - 1 products, each rounded, and a root by sqrt or
  // the definition of pow.
  EK_KERNEL void (*norm_box_f32)(const PoolBox& box, size_t channels, size_t p, float* y);
  // y[i] = sum of weight[t] * x[index[t] * n + i], each a fused multiply-add, t ascending from zero: rows of n floats.
  EK_KERNEL void (*resample_row)(const float* x, size_t n, const int32_t* index, const float* weight, size_t taps,
                                 float* y);
  // The same for n results that each have neighbors of their own: y[i] = sum of weight[t * n + i] * x[index[t * n +
  // i]].
  EK_KERNEL void (*resample_lanes)(const float* x, size_t n, const int32_t* index, const float* weight, size_t taps,
                                   float* y);
};

#define EK_SAMPLING_KERNELS(X) X(max_box_f32) X(sum_box_f32) X(norm_box_f32) X(resample_row) X(resample_lanes)

}  // namespace ek
