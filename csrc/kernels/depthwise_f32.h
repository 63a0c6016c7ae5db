// Depthwise convolution of floats: every channel by itself.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue.h"
#include "kernels/kernel.h"

namespace ek {

/// Neighboring output pixels, all channels.
struct F32DepthwiseRow {
  const float* const* taps;  // where the first pixel meets each tap: `channels` floats
  const size_t* steps;       // floats from there to where the next pixel does
  size_t num_taps, pixels, channels;
  const float* weights;  // [num_taps][channels to a multiple of kStrip]
  uint8_t* out;          // float32 or bytes, as the epilogue says
  size_t out_ld;         // bytes from pixel to pixel
  size_t row;            // index of the first pixel, for the addend
};

struct F32DepthwiseKernels {
  // y = fma(x, w, y) over the taps, ascending, from zero; plus bias and the rest of a real kind.
  EK_KERNEL void (*depthwise_f32_row)(const F32DepthwiseRow& row, const Epilogue& epilogue);
};

#define EK_F32_DEPTHWISE_KERNELS(X) X(depthwise_f32_row)

}  // namespace ek
