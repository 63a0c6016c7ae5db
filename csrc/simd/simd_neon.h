// simd_neon: dot() without the dot-product extension (Raspberry Pi 4): smull, then two rounds of pairwise addition.
// A product of two int8 fits in int16 (-128 * -128 = 16384), a pair of them in int32 by saddlp: exact.
#pragma once

#include "simd/simd_neon_base.h"

namespace ek {
namespace {

constexpr Isa kIsa = Isa::kNeon;
constexpr Sign kNativeSign = Sign::kS8;
constexpr int kTileRows = 4, kTileStrips = 1;
constexpr int kF32TileRows = 6, kF32Sums = 6;  // 24 registers of sums, 4 of weights, 1 of x

EK_INLINE int32x4_t dot_q(int32x4_t acc, int8x16_t a, int8x16_t w) {
  const int32x4_t lo = vpaddlq_s16(vmull_s8(vget_low_s8(a), vget_low_s8(w)));
  const int32x4_t hi = vpaddlq_s16(vmull_high_s8(a, w));
  return vaddq_s32(acc, vpaddq_s32(lo, hi));
}
EK_INLINE I32 dot(I32 acc, Act a, Line w) {
  return {dot_q(acc.v0, a.v, w.v0), dot_q(acc.v1, a.v, w.v1), dot_q(acc.v2, a.v, w.v2), dot_q(acc.v3, a.v, w.v3)};
}
EK_INLINE I32 dot(I32 acc, Line a, Line w) {
  return {dot_q(acc.v0, a.v0, w.v0), dot_q(acc.v1, a.v1, w.v1), dot_q(acc.v2, a.v2, w.v2), dot_q(acc.v3, a.v3, w.v3)};
}
EK_INLINE I32 dot_u8(I32 acc, Quad a, Line w) { return dot(acc, a, less_128(w)); }
EK_INLINE I32 dot_u4(I32 acc, Quad a, Line w) { return dot(acc, a, w); }

}  // namespace
}  // namespace ek
