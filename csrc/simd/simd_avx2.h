// simd_avx2: dot() without VNNI. vpmaddubsw would saturate at int16, so bytes are widened and vpmaddwd used:
// even and odd values of k are multiplied apart, each pair sum at most 2 * 255 * 128, exact.
#pragma once

#include "simd/simd_x86_256.h"

namespace ek {
namespace {

constexpr Isa kIsa = Isa::kAvx2;
constexpr Sign kNativeSign = Sign::kU8;
constexpr int kTileRows = 4, kTileStrips = 1;
constexpr int kF32TileRows = 6, kF32Sums = 6;  // 12 registers of sums, 2 of weights, 1 of x

struct Act {
  __m256i even, odd;  // u8 values of k = 0, 2 and of k = 1, 3 as int16
};

EK_INLINE Act to_act(uint32_t quad) {
  const __m256i x = _mm256_set1_epi32(static_cast<int32_t>(quad)), low = _mm256_set1_epi16(0xFF);
  return {_mm256_and_si256(x, low), _mm256_srli_epi16(x, 8)};
}
EK_INLINE Act load_act(const uint8_t* p) { return to_act(load_u32(p)); }

EK_INLINE Act flip_act(Act a) {
  const __m256i flip = _mm256_set1_epi16(0x80);
  return {_mm256_xor_si256(a.even, flip), _mm256_xor_si256(a.odd, flip)};
}
EK_INLINE __m256i weights_even(__m256i w) { return _mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8); }
EK_INLINE __m256i weights_odd(__m256i w) { return _mm256_srai_epi16(w, 8); }

EK_INLINE __m256i dot_half(__m256i acc, __m256i even, __m256i odd, __m256i w) {
  const __m256i products =
      _mm256_add_epi32(_mm256_madd_epi16(even, weights_even(w)), _mm256_madd_epi16(odd, weights_odd(w)));
  return _mm256_add_epi32(acc, products);
}

EK_INLINE I32 dot(I32 acc, Act a, Line w) {
  return {dot_half(acc.lo, a.even, a.odd, w.lo), dot_half(acc.hi, a.even, a.odd, w.hi)};
}
EK_INLINE I32 dot(I32 acc, Line a, Line w) {
  const __m256i low = _mm256_set1_epi16(0xFF);
  return {dot_half(acc.lo, _mm256_and_si256(a.lo, low), _mm256_srli_epi16(a.lo, 8), w.lo),
          dot_half(acc.hi, _mm256_and_si256(a.hi, low), _mm256_srli_epi16(a.hi, 8), w.hi)};
}
EK_INLINE I32 dot_u8(I32 acc, Quad a, Line w) {
  const __m256i low = _mm256_set1_epi16(0xFF);
  return {dot_half(acc.lo, _mm256_and_si256(w.lo, low), _mm256_srli_epi16(w.lo, 8), a.v),
          dot_half(acc.hi, _mm256_and_si256(w.hi, low), _mm256_srli_epi16(w.hi, 8), a.v)};
}
/// Here vpmaddubsw is exact: a pair sum is at most 2 * 15 * 128.
EK_INLINE __m256i dot_u4_half(__m256i acc, __m256i a, __m256i w) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, a), _mm256_set1_epi16(1)));
}
EK_INLINE I32 dot_u4(I32 acc, Quad a, Line w) {
  return {dot_u4_half(acc.lo, a.v, w.lo), dot_u4_half(acc.hi, a.v, w.hi)};
}

}  // namespace
}  // namespace ek
