// What a decoder does to rows of floats beside products: norm into bytes, rotation.
//
// Bits    each value by itself, multiplied and added apart as the graph of a model would: not a sum of products.
#pragma once

#include "kernels/decoder.h"
#include "kernels/partial.inl"

namespace ek {
namespace {

/// Lanes i to i + n of (x * factor) * gain.
EK_INLINE F32 normed(const NormRow& row, F32 factor, size_t i, size_t n) {
  return mul_f32(mul_f32(load_f32_n(row.x + i, n), factor), load_f32_n(row.gain + i, n));
}

void norm_quantize_row(const NormRow& row, Sign sign, uint8_t* y, float* scale) {
  const F32 factor = set1_f32(row.factor);
  F32 best = set1_f32(0.0f);
  for (size_t i = 0; i < row.n; i += kStrip) best = max_f32(abs_f32(normed(row, factor, i, row.n - i)), best);
  const RowScale by(max_lane(best));
  *scale = by.scale;
  const ByteStore bytes(-128.0f, 127.0f, sign == Sign::kU8 ? 128 : 0, sign, by.finite());  // -128: NaN, -infinity
  quantize_run(row.n, by, bytes, y,
               [&](size_t at, size_t left) EK_LAMBDA { return normed(row, factor, at, left); });  // in L1 now
}

void rotate_row(const float* x, const float* cosines, const float* sines, size_t half, float* y) {
  for (size_t i = 0; i < half; i += kStrip) {
    const size_t n = half - i;
    const F32 a = load_f32_n(x + i, n), b = load_f32_n(x + half + i, n);
    const F32 c = load_f32_n(cosines + i, n), s = load_f32_n(sines + i, n);
    store_f32_n(y + i, sub_f32(mul_f32(a, c), mul_f32(b, s)), n);
    store_f32_n(y + half + i, add_f32(mul_f32(b, c), mul_f32(a, s)), n);
  }
}

}  // namespace
}  // namespace ek
