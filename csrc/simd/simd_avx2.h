// simd_avx2: dot() without VNNI. vpmaddubsw would saturate at int16, so bytes are widened and vpmaddwd used:
// even and odd values of k are multiplied apart, each pair sum at most 2 * 255 * 128, exact.
#pragma once

#include "simd/simd_x86_256.h"

namespace ek {
namespace {

constexpr Isa kIsa = Isa::kAvx2;
constexpr Sign kNativeSign = Sign::kU8;
constexpr int kTileRows = 4, kTileStrips = 1;
constexpr bool kByteDots = false;
#define EK_SIMD_SPREAD                         // what is multiplied is int16
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
constexpr size_t kSpread = 16;  // bytes that store_spread takes
/// The bytes of four quads as int16, k = 0, 2, 1, 3 of each; some of them, from `quads` up to three.
EK_INLINE void store_spread(int16_t* to, const uint8_t* from, bool flip, size_t quads = 4) {
  const __m128i order = _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15);
  const auto quad = [&](size_t i) EK_LAMBDA { return static_cast<int32_t>(load_u32(from + 4 * i)); };
  const auto two = [&]() EK_LAMBDA { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)); };
  const __m128i bytes = quads == 4   ? _mm_loadu_si128(reinterpret_cast<const __m128i*>(from))
                        : quads == 3 ? _mm_insert_epi32(two(), quad(2), 2)
                        : quads == 2 ? two()
                                     : _mm_cvtsi32_si128(quad(0));
  const __m128i native = _mm_xor_si128(bytes, _mm_set1_epi8(flip ? -128 : 0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_cvtepu8_epi16(_mm_shuffle_epi8(native, order)));
}
EK_INLINE Act load_spread(const int16_t* p) {
  const auto pair = [](const int16_t* two) EK_LAMBDA {
    int32_t both;
    __builtin_memcpy(&both, two, sizeof both);
    return _mm256_set1_epi32(both);
  };
  return {pair(p), pair(p + 2)};
}
struct SpreadLine {
  __m256i even_lo, odd_lo, even_hi, odd_hi;
};
EK_INLINE SpreadLine spread(Line w) {
  return {weights_even(w.lo), weights_odd(w.lo), weights_even(w.hi), weights_odd(w.hi)};
}
EK_INLINE I32 dot(I32 acc, Act a, const SpreadLine& w) {
  return {_mm256_add_epi32(_mm256_add_epi32(acc.lo, _mm256_madd_epi16(a.even, w.even_lo)),
                           _mm256_madd_epi16(a.odd, w.odd_lo)),
          _mm256_add_epi32(_mm256_add_epi32(acc.hi, _mm256_madd_epi16(a.even, w.even_hi)),
                           _mm256_madd_epi16(a.odd, w.odd_hi))};
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
