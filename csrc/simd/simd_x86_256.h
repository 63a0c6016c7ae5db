// simd_x86_256: 16 logical lanes as two ymm. Included by simd_avx2.h and simd_avxvnni.h, which add dot().
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/isa.h"
#include "simd/copy_bytes.h"
#include "simd/sign.h"
#include "simd/unroll.h"

namespace ek {
namespace {

struct I32 {
  __m256i lo, hi;
};
struct F32 {
  __m256 lo, hi;
};
struct Line {
  __m256i lo, hi;
};
struct Quad {
  __m256i v;
};

EK_INLINE I32 load_i32(const int32_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
EK_INLINE void store_i32(int32_t* p, I32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), x.hi);
}
EK_INLINE void stream_i32(int32_t* p, I32 x) {
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), x.lo);
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p + 8), x.hi);
}
EK_INLINE I32 set1_i32(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
EK_INLINE I32 add_i32(I32 a, I32 b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
EK_INLINE F32 load_f32(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
EK_INLINE void store_f32(float* p, F32 x) {
  _mm256_storeu_ps(p, x.lo);
  _mm256_storeu_ps(p + 8, x.hi);
}
EK_INLINE void stream_f32(float* p, F32 x) {
  _mm256_stream_ps(p, x.lo);
  _mm256_stream_ps(p + 8, x.hi);
}
EK_INLINE F32 set1_f32(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
EK_INLINE F32 add_f32(F32 a, F32 b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
EK_INLINE F32 mul_f32(F32 a, F32 b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
EK_INLINE F32 fma_f32(F32 a, F32 b, F32 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
EK_INLINE F32 div_f32(F32 a, F32 b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
EK_INLINE F32 sqrt_f32(F32 a) { return {_mm256_sqrt_ps(a.lo), _mm256_sqrt_ps(a.hi)}; }
EK_INLINE F32 max_f32(F32 a, F32 b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
EK_INLINE F32 min_f32(F32 a, F32 b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
EK_INLINE F32 abs_f32(F32 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.lo), _mm256_andnot_ps(sign, a.hi)};
}
EK_INLINE F32 sub_f32(F32 a, F32 b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
EK_INLINE F32 round_f32(F32 a) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(a.lo, kNearest), _mm256_round_ps(a.hi, kNearest)};
}
EK_INLINE F32 fraction_f32(F32 a) { return sub_f32(a, round_f32(a)); }
EK_INLINE F32 max_size_f32(F32 a, F32 b) { return max_f32(abs_f32(a), b); }
EK_INLINE float max_lane(F32 a) {
  const __m256 m8 = _mm256_max_ps(a.lo, a.hi);
  const __m128 m4 = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
  const __m128 m2 = _mm_max_ps(m4, _mm_movehl_ps(m4, m4));
  return _mm_cvtss_f32(_mm_max_ss(m2, _mm_movehdup_ps(m2)));
}
EK_INLINE I32 bits_i32(F32 a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
EK_INLINE I32 size_bits(F32 a) { return bits_i32(abs_f32(a)); }
EK_INLINE I32 max_i32(I32 a, I32 b) { return {_mm256_max_epi32(a.lo, b.lo), _mm256_max_epi32(a.hi, b.hi)}; }
EK_INLINE int32_t max_lane(I32 a) {
  const __m256i m8 = _mm256_max_epi32(a.lo, a.hi);
  const __m128i m4 = _mm_max_epi32(_mm256_castsi256_si128(m8), _mm256_extracti128_si256(m8, 1));
  const __m128i m2 = _mm_max_epi32(m4, _mm_shuffle_epi32(m4, 0x4E));
  return _mm_cvtsi128_si32(_mm_max_epi32(m2, _mm_shuffle_epi32(m2, 0xB1)));
}
EK_INLINE bool all_below(F32 a, F32 b) {
  return _mm256_movemask_ps(
             _mm256_and_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))) == 0xFF;
}
EK_INLINE F32 select_below(F32 a, F32 b, F32 x, F32 y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ))};
}
EK_INLINE F32 select_equal(F32 a, F32 b, F32 x, F32 y) {
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_cmp_ps(a.lo, b.lo, _CMP_EQ_OQ)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_cmp_ps(a.hi, b.hi, _CMP_EQ_OQ))};
}
EK_INLINE F32 as_f32(I32 a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
EK_INLINE I32 sub_i32(I32 a, I32 b) { return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)}; }
EK_INLINE I32 mul_i32(I32 a, I32 b) { return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)}; }
template <int kBits>
EK_INLINE I32 shift_left(I32 a) {
  return {_mm256_slli_epi32(a.lo, kBits), _mm256_slli_epi32(a.hi, kBits)};
}
template <int kBits>
EK_INLINE I32 shift_right(I32 a) {
  return {_mm256_srai_epi32(a.lo, kBits), _mm256_srai_epi32(a.hi, kBits)};
}
EK_INLINE F32 select_bits(uint32_t bits, F32 x, F32 y) {
  const __m256i all = _mm256_set1_epi32(static_cast<int32_t>(bits));
  const __m256i low = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), high = _mm256_slli_epi32(low, 8);
  const __m256i in_low = _mm256_cmpeq_epi32(_mm256_and_si256(all, low), low);
  const __m256i in_high = _mm256_cmpeq_epi32(_mm256_and_si256(all, high), high);
  return {_mm256_blendv_ps(y.lo, x.lo, _mm256_castsi256_ps(in_low)),
          _mm256_blendv_ps(y.hi, x.hi, _mm256_castsi256_ps(in_high))};
}
EK_INLINE float sum_lanes(F32 a) {
  const __m256 s8 = _mm256_add_ps(a.lo, a.hi);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
EK_INLINE F32 keep_bits(F32 a, uint32_t mask) {
  const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int32_t>(mask)));
  return {_mm256_and_ps(a.lo, m), _mm256_and_ps(a.hi, m)};
}
EK_INLINE F32 pow2_f32(I32 n) {
  const __m256i bias = _mm256_set1_epi32(127);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.lo, bias), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.hi, bias), 23))};
}
EK_INLINE __m256 in_order(__m256 x) { return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(x), 0xD8)); }
EK_INLINE F32 even_lanes(F32 a, F32 b) {
  return {in_order(_mm256_shuffle_ps(a.lo, a.hi, 0x88)), in_order(_mm256_shuffle_ps(b.lo, b.hi, 0x88))};
}
EK_INLINE F32 odd_lanes(F32 a, F32 b) {
  return {in_order(_mm256_shuffle_ps(a.lo, a.hi, 0xDD)), in_order(_mm256_shuffle_ps(b.lo, b.hi, 0xDD))};
}
EK_INLINE void store_f16(uint16_t* p, F32 x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.lo, kNearest));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.hi, kNearest));
}
EK_INLINE __m256i bf16_words(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
}
EK_INLINE void store_bf16(uint16_t* p, F32 x) {
  const __m256i words = _mm256_packus_epi32(bf16_words(x.lo), bf16_words(x.hi));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(words, 0xD8));
}
EK_INLINE F32 to_f32(I32 a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
EK_INLINE I32 rne_i32(F32 a) { return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)}; }
EK_INLINE I32 load_u8(const uint8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepu8_epi32(x), _mm256_cvtepu8_epi32(_mm_srli_si128(x, 8))};
}
EK_INLINE I32 load_s8(const uint8_t* p) {
  const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi8_epi32(x), _mm256_cvtepi8_epi32(_mm_srli_si128(x, 8))};
}
EK_INLINE void store_bytes(uint8_t* p, I32 x) {
  const __m256i low = _mm256_set1_epi32(0xFF);
  const __m256i words = _mm256_packus_epi32(_mm256_and_si256(x.lo, low), _mm256_and_si256(x.hi, low));
  const __m256i ordered = _mm256_permute4x64_epi64(words, 0xD8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi16(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1)));
}
EK_INLINE void store_triples_half(uint8_t* p, __m256i a, __m256i b, __m256i c) {
  const __m256i low = _mm256_set1_epi32(0xFF);
  const __m256i ab = _mm256_or_si256(_mm256_and_si256(a, low), _mm256_slli_epi32(_mm256_and_si256(b, low), 8));
  const __m256i quads = _mm256_or_si256(ab, _mm256_slli_epi32(c, 16));
  const __m256i drop_fourth =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
  const __m256i order = _mm256_setr_epi32(0, 1, 2, 4, 5, 6, 3, 7);
  const __m256i triples = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(quads, drop_fourth), order);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(triples));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p + 16), _mm256_extracti128_si256(triples, 1));
}
EK_INLINE void store_triples(uint8_t* p, I32 a, I32 b, I32 c) {
  store_triples_half(p, a.lo, b.lo, c.lo);
  store_triples_half(p + 24, a.hi, b.hi, c.hi);
}
EK_INLINE Line load_line(const int8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
EK_INLINE void keep(Line& x) { asm("" : "+x"(x.lo), "+x"(x.hi)); }
EK_INLINE void keep(I32& x) { asm("" : "+x"(x.lo), "+x"(x.hi)); }
EK_INLINE void store_line(uint8_t* p, Line x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.lo);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.hi);
}
EK_INLINE Line max_u8(Line a, Line b) { return {_mm256_max_epu8(a.lo, b.lo), _mm256_max_epu8(a.hi, b.hi)}; }
EK_INLINE Line max_s8(Line a, Line b) { return {_mm256_max_epi8(a.lo, b.lo), _mm256_max_epi8(a.hi, b.hi)}; }
/// A shuffle gives 0 where its index has the top bit. So the sum (xor) over a half of what each 16 bytes change of
/// those before is the byte itself: an index that is lower than a part of 16 is negative there.
struct ByteTable {
  __m256i low[8], high[8];
  EK_INLINE explicit ByteTable(const uint8_t* t) {
    __m256i before[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
    for (int i = 0; i < 8; ++i) {
      const __m256i now[2] = {
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(t + 16 * i))),
          _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(t + 128 + 16 * i)))};
      low[i] = _mm256_xor_si256(now[0], before[0]);
      high[i] = _mm256_xor_si256(now[1], before[1]);
      before[0] = now[0], before[1] = now[1];
    }
  }
  EK_INLINE __m256i of(__m256i x) const {
    const __m256i step = _mm256_set1_epi8(16);
    __m256i below = x, above = _mm256_xor_si256(x, _mm256_set1_epi8(-128));
    __m256i of_low = _mm256_shuffle_epi8(low[0], below), of_high = _mm256_shuffle_epi8(high[0], above);
    for (int i = 1; i < 8; ++i) {
      below = _mm256_sub_epi8(below, step);
      above = _mm256_sub_epi8(above, step);
      of_low = _mm256_xor_si256(of_low, _mm256_shuffle_epi8(low[i], below));
      of_high = _mm256_xor_si256(of_high, _mm256_shuffle_epi8(high[i], above));
    }
    return _mm256_blendv_epi8(of_low, of_high, x);
  }
  EK_INLINE Line of(Line x) const { return {of(x.lo), of(x.hi)}; }
};
EK_INLINE Line interleave4(const uint8_t* t0, const uint8_t* t1, const uint8_t* t2, const uint8_t* t3) {
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t0));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t1));
  const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t2));
  const __m128i d = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t3));
  const __m128i ab0 = _mm_unpacklo_epi8(a, b), ab1 = _mm_unpackhi_epi8(a, b);
  const __m128i cd0 = _mm_unpacklo_epi8(c, d), cd1 = _mm_unpackhi_epi8(c, d);
  return {_mm256_set_m128i(_mm_unpackhi_epi16(ab0, cd0), _mm_unpacklo_epi16(ab0, cd0)),
          _mm256_set_m128i(_mm_unpackhi_epi16(ab1, cd1), _mm_unpacklo_epi16(ab1, cd1))};
}
EK_INLINE F32 load_f16(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
EK_INLINE __m256 load_bf16_half(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
EK_INLINE F32 load_bf16(const uint16_t* p) { return {load_bf16_half(p), load_bf16_half(p + 8)}; }
EK_INLINE Line low_pairs(Line x) {
  const __m256i low = _mm256_set1_epi8(3);
  return {_mm256_and_si256(x.lo, low), _mm256_and_si256(x.hi, low)};
}
EK_INLINE Line next_pairs(Line x) { return {_mm256_srli_epi16(x.lo, 2), _mm256_srli_epi16(x.hi, 2)}; }
EK_INLINE __m256i times3_half(__m256i x) { return _mm256_add_epi8(x, _mm256_add_epi8(x, x)); }
EK_INLINE Line times3(Line x) { return {times3_half(x.lo), times3_half(x.hi)}; }
/// 1, less one up to 85, plus one from 171 on.
EK_INLINE __m256i thirds_half(__m256i x) {
  const __m256i up_to_85 = _mm256_cmpeq_epi8(_mm256_min_epu8(x, _mm256_set1_epi8(85)), x);
  const __m256i from_171 = _mm256_cmpeq_epi8(_mm256_max_epu8(x, _mm256_set1_epi8(-85)), x);
  return _mm256_sub_epi8(_mm256_add_epi8(up_to_85, _mm256_set1_epi8(1)), from_171);
}
EK_INLINE Line thirds(Line x) { return {thirds_half(x.lo), thirds_half(x.hi)}; }
constexpr int32_t kDotOffset = 0;
EK_INLINE Quad load_quad(const int8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, 4);
  return {_mm256_set1_epi32(quad)};
}
#define EK_SIMD_F32_TAILS  // masked lanes are neither read nor written, and do not fault
constexpr int32_t kFirstLanes[32] = {-1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
EK_INLINE I32 first_lanes(size_t n) { return load_i32(kFirstLanes + 16 - n); }
EK_INLINE F32 load_f32_n(const float* p, size_t n) {
  if (n >= 16) return load_f32(p);
  const I32 first = first_lanes(n);
  return {_mm256_maskload_ps(p, first.lo), _mm256_maskload_ps(p + 8, first.hi)};
}
// By powers of two: a masked store is microcode on AMD.
EK_INLINE void store_f32_n(float* p, F32 x, size_t n) {
  if (n >= 16) return store_f32(p, x);
  __m256 rest = x.lo;
  if (n & 8) {
    _mm256_storeu_ps(p, x.lo);
    rest = x.hi;
    p += 8;
  }
  __m128 four = _mm256_castps256_ps128(rest);
  if (n & 4) {
    _mm_storeu_ps(p, four);
    four = _mm256_extractf128_ps(rest, 1);
    p += 4;
  }
  if (n & 2) {
    _mm_storel_pi(reinterpret_cast<__m64*>(p), four);
    four = _mm_movehl_ps(four, four);
    p += 2;
  }
  if (n & 1) _mm_store_ss(p, four);
}
EK_INLINE Line low_nibbles(Line x) {
  const __m256i low = _mm256_set1_epi8(0x0F);
  return {_mm256_and_si256(x.lo, low), _mm256_and_si256(x.hi, low)};
}
EK_INLINE Line high_nibbles(Line x) { return low_nibbles({_mm256_srli_epi16(x.lo, 4), _mm256_srli_epi16(x.hi, 4)}); }

}  // namespace
}  // namespace ek

#include "simd/block_identity.h"
#include "simd/tails.h"
