// What a decoder does to rows of floats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"
#include "simd/sign.h"

namespace ek {

/// A row to be normed: (x * factor) * gain, element by element.
struct NormRow {
  const float* x;
  const float* gain;
  size_t n;
  float factor;
};

struct DecoderKernels {
  // normalize_rows, then quantize_rows, without the floats between them.
  EK_KERNEL void (*norm_quantize_row)(const NormRow& row, Sign sign, uint8_t* y, float* scale);
  // Element i of x turns with element i + half: y may be x.
  EK_KERNEL void (*rotate_row)(const float* x, const float* cosines, const float* sines, size_t half, float* y);
};

#define EK_DECODER_KERNELS(X) X(norm_quantize_row) X(rotate_row)

}  // namespace ek
