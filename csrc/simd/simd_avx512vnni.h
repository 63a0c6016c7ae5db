// simd_avx512vnni: one zmm is one logical vector; vpdpbusd, the wrapping form.
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

constexpr Isa kIsa = Isa::kAvx512Vnni;
constexpr Sign kNativeSign = Sign::kU8;
constexpr int kTileRows = 6, kTileStrips = 4;  // 24 accumulators + 4 lines + activations of 32 registers
constexpr int kF32TileRows = 12, kF32Sums = 24;
#define EK_SIMD_SHALLOW  // or the weights of gemm_shallow

struct I32 {
  __m512i v;
};
struct F32 {
  __m512 v;
};
struct Line {
  __m512i v;
};
struct Act {
  __m512i v;
};
struct Quad {
  __m512i v;
};

EK_INLINE I32 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
EK_INLINE void store_i32(int32_t* p, I32 x) { _mm512_storeu_si512(p, x.v); }
EK_INLINE void stream_i32(int32_t* p, I32 x) { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), x.v); }
EK_INLINE void stream_f32(float* p, F32 x) { _mm512_stream_ps(p, x.v); }
EK_INLINE I32 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
EK_INLINE I32 add_i32(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
EK_INLINE F32 load_f32(const float* p) { return {_mm512_loadu_ps(p)}; }
EK_INLINE void store_f32(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
EK_INLINE F32 set1_f32(float x) { return {_mm512_set1_ps(x)}; }
EK_INLINE F32 add_f32(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
EK_INLINE F32 mul_f32(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
EK_INLINE F32 fma_f32(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
EK_INLINE F32 div_f32(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
EK_INLINE F32 sqrt_f32(F32 a) { return {_mm512_sqrt_ps(a.v)}; }
EK_INLINE F32 max_f32(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
EK_INLINE F32 min_f32(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
EK_INLINE F32 abs_f32(F32 a) { return {_mm512_abs_ps(a.v)}; }
EK_INLINE F32 sub_f32(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
EK_INLINE F32 round_f32(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
EK_INLINE F32 fraction_f32(F32 a) { return {_mm512_reduce_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
EK_INLINE F32 max_size_f32(F32 a, F32 b) { return {_mm512_range_ps(a.v, b.v, 0xB)}; }
EK_INLINE float max_lane(F32 a) { return _mm512_reduce_max_ps(a.v); }
EK_INLINE I32 bits_i32(F32 a) { return {_mm512_castps_si512(a.v)}; }
EK_INLINE I32 size_bits(F32 a) { return {_mm512_castps_si512(_mm512_abs_ps(a.v))}; }
EK_INLINE I32 max_i32(I32 a, I32 b) { return {_mm512_max_epi32(a.v, b.v)}; }
EK_INLINE int32_t max_lane(I32 a) { return _mm512_reduce_max_epi32(a.v); }
EK_INLINE bool all_below(F32 a, F32 b) { return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ) == 0xFFFF; }
EK_INLINE F32 select_below(F32 a, F32 b, F32 x, F32 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), y.v, x.v)};
}
EK_INLINE F32 select_equal(F32 a, F32 b, F32 x, F32 y) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ), y.v, x.v)};
}
EK_INLINE F32 as_f32(I32 a) { return {_mm512_castsi512_ps(a.v)}; }
EK_INLINE I32 sub_i32(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
EK_INLINE I32 mul_i32(I32 a, I32 b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
template <int kBits>
EK_INLINE I32 shift_left(I32 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
EK_INLINE I32 shift_right(I32 a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
EK_INLINE F32 select_bits(uint32_t bits, F32 x, F32 y) {
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(bits), y.v, x.v)};
}
EK_INLINE float sum_lanes(F32 a) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}
EK_INLINE F32 keep_bits(F32 a, uint32_t mask) {
  return {_mm512_and_ps(a.v, _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int32_t>(mask))))};
}
EK_INLINE F32 pow2_f32(I32 n) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
EK_INLINE F32 even_lanes(F32 a, F32 b) {
  const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  return {_mm512_permutex2var_ps(a.v, at, b.v)};
}
EK_INLINE F32 odd_lanes(F32 a, F32 b) {
  const __m512i at = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  return {_mm512_permutex2var_ps(a.v, at, b.v)};
}
EK_INLINE F32 to_f32(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
EK_INLINE I32 rne_i32(F32 a) { return {_mm512_cvtps_epi32(a.v)}; }
EK_INLINE I32 load_u8(const uint8_t* p) {
  return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
EK_INLINE I32 load_s8(const uint8_t* p) {
  return {_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
EK_INLINE void store_bytes(uint8_t* p, I32 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(x.v));
}
EK_INLINE void store_triples(uint8_t* p, I32 a, I32 b, I32 c) {
  const __m512i low = _mm512_set1_epi32(0xFF);
  const __m512i ab = _mm512_or_si512(_mm512_and_si512(a.v, low), _mm512_slli_epi32(_mm512_and_si512(b.v, low), 8));
  const __m512i quads = _mm512_or_si512(ab, _mm512_slli_epi32(c.v, 16));
  const __m128i drop_fourth = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
  const __m512i triples = _mm512_shuffle_epi8(quads, _mm512_broadcast_i32x4(drop_fourth));
  const __m512i order = _mm512_setr_epi32(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 3, 7, 11, 15);
  _mm512_mask_storeu_epi32(p, 0x0FFF, _mm512_permutexvar_epi32(order, triples));
}
EK_INLINE Line load_line(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
EK_INLINE void store_line(uint8_t* p, Line x) { _mm512_storeu_si512(p, x.v); }
EK_INLINE Line max_u8(Line a, Line b) { return {_mm512_max_epu8(a.v, b.v)}; }
EK_INLINE Line max_s8(Line a, Line b) { return {_mm512_max_epi8(a.v, b.v)}; }
/// As that of simd_x86_256.h: vpermi2b would do it in two, and is younger than this set.
struct ByteTable {
  __m512i low[8], high[8];
  EK_INLINE explicit ByteTable(const uint8_t* t) {
    __m512i before[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int i = 0; i < 8; ++i) {
      const __m512i now[2] = {
          _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(t + 16 * i))),
          _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(t + 128 + 16 * i)))};
      low[i] = _mm512_xor_si512(now[0], before[0]);
      high[i] = _mm512_xor_si512(now[1], before[1]);
      before[0] = now[0], before[1] = now[1];
    }
  }
  EK_INLINE Line of(Line x) const {
    const __m512i step = _mm512_set1_epi8(16);
    __m512i below = x.v, above = _mm512_xor_si512(x.v, _mm512_set1_epi8(-128));
    __m512i of_low = _mm512_shuffle_epi8(low[0], below), of_high = _mm512_shuffle_epi8(high[0], above);
    for (int i = 1; i < 8; ++i) {
      below = _mm512_sub_epi8(below, step);
      above = _mm512_sub_epi8(above, step);
      of_low = _mm512_xor_si512(of_low, _mm512_shuffle_epi8(low[i], below));
      of_high = _mm512_xor_si512(of_high, _mm512_shuffle_epi8(high[i], above));
    }
    return {_mm512_mask_blend_epi8(_mm512_movepi8_mask(x.v), of_low, of_high)};
  }
};
EK_INLINE Act to_act(uint32_t quad) { return {_mm512_set1_epi32(static_cast<int32_t>(quad))}; }
EK_INLINE Act load_act(const uint8_t* p) { return to_act(load_u32(p)); }
EK_INLINE Act flip_act(Act a) { return {_mm512_xor_si512(a.v, _mm512_set1_epi8(-128))}; }
EK_INLINE void keep(Line& x) { asm("" : "+v"(x.v)); }
EK_INLINE void keep(I32& x) { asm("" : "+v"(x.v)); }
EK_INLINE Line interleave4(const uint8_t* t0, const uint8_t* t1, const uint8_t* t2, const uint8_t* t3) {
  const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t0));
  const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t1));
  const __m128i c = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t2));
  const __m128i d = _mm_loadu_si128(reinterpret_cast<const __m128i*>(t3));
  const __m128i ab0 = _mm_unpacklo_epi8(a, b), ab1 = _mm_unpackhi_epi8(a, b);
  const __m128i cd0 = _mm_unpacklo_epi8(c, d), cd1 = _mm_unpackhi_epi8(c, d);
  const __m256i lo = _mm256_set_m128i(_mm_unpackhi_epi16(ab0, cd0), _mm_unpacklo_epi16(ab0, cd0));
  const __m256i hi = _mm256_set_m128i(_mm_unpackhi_epi16(ab1, cd1), _mm_unpacklo_epi16(ab1, cd1));
  return {_mm512_inserti64x4(_mm512_castsi256_si512(lo), hi, 1)};
}
#define EK_SIMD_FOLD
/// For products of at most 4 columns: 4 quads of them in one line, those of the first in front. Masked loads, because
/// inserts take a pipe from the dot products.
EK_INLINE Line load_folded(const int8_t* p, size_t step) {
  const __m512i one = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m512i two = _mm512_mask_loadu_epi32(one, 0x00F0, p + step - 16);
  const __m512i three = _mm512_mask_loadu_epi32(two, 0x0F00, p + 2 * step - 32);
  return {_mm512_mask_loadu_epi32(three, 0xF000, p + 3 * step - 48)};
}
/// The 4 quads of a row that meet it.
EK_INLINE Act load_folded(const uint8_t* p) {
  const __m512i quad = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
  const __m512i first = _mm512_mullo_epi32(quad, _mm512_set1_epi32(0x04040404));
  const __m512i order = _mm512_add_epi32(first, _mm512_set1_epi32(0x03020100));
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_shuffle_epi8(_mm512_broadcast_i32x4(bytes), order)};
}
/// acc with the sums over the quads added to its first 4 lanes; the others are of no use any more.
EK_INLINE I32 unfold(I32 acc, I32 folded) {
  const __m512i half = _mm512_add_epi32(folded.v, _mm512_shuffle_i32x4(folded.v, folded.v, 0x4E));
  const __m512i sums = _mm512_add_epi32(half, _mm512_shuffle_i32x4(half, half, 0xB1));
  return {_mm512_add_epi32(acc.v, sums)};
}

EK_INLINE I32 dot(I32 acc, Act a, Line w) { return {_mm512_dpbusd_epi32(acc.v, a.v, w.v)}; }
EK_INLINE I32 dot(I32 acc, Line a, Line w) { return {_mm512_dpbusd_epi32(acc.v, a.v, w.v)}; }
EK_INLINE F32 load_f16(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
EK_INLINE F32 load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
EK_INLINE Quad load_quad(const int8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, 4);
  return {_mm512_set1_epi32(quad)};
}
EK_INLINE Line low_nibbles(Line x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(0x0F))}; }
EK_INLINE Line high_nibbles(Line x) { return low_nibbles({_mm512_srli_epi16(x.v, 4)}); }
EK_INLINE Line low_pairs(Line x) { return {_mm512_and_si512(x.v, _mm512_set1_epi8(3))}; }
EK_INLINE Line next_pairs(Line x) { return {_mm512_srli_epi16(x.v, 2)}; }
EK_INLINE Line times3(Line x) { return {_mm512_add_epi8(x.v, _mm512_add_epi8(x.v, x.v))}; }
EK_INLINE Line thirds(Line x) {
  const __m512i one = _mm512_set1_epi8(1);
  const __mmask64 below = _mm512_cmple_epu8_mask(x.v, _mm512_set1_epi8(85));
  const __m512i some = _mm512_mask_mov_epi8(one, below, _mm512_setzero_si512());
  return {_mm512_mask_mov_epi8(some, _mm512_cmpge_epu8_mask(x.v, _mm512_set1_epi8(-85)), _mm512_set1_epi8(2))};
}
constexpr bool kByteDots = true;
constexpr int32_t kDotOffset = 0;
EK_INLINE I32 dot_u8(I32 acc, Quad a, Line w) { return {_mm512_dpbusd_epi32(acc.v, w.v, a.v)}; }
EK_INLINE I32 dot_u4(I32 acc, Quad a, Line w) { return {_mm512_dpbusd_epi32(acc.v, w.v, a.v)}; }

// Tails: masked lanes are neither read nor written, and do not fault.
EK_INLINE __mmask16 first_lanes(size_t n) { return static_cast<__mmask16>(n >= 16 ? 0xFFFF : (1u << n) - 1); }
EK_INLINE void store_bytes_n(uint8_t* p, I32 x, size_t n) {
  if (n >= 16) return store_bytes(p, x);
  _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_cvtepi32_epi8(x.v));
}
EK_INLINE void store_biased(uint8_t* p, const I32 (&x)[4], Sign sign, size_t n) {
  const __m512i even = _mm512_set_epi16(62, 60, 58, 56, 54, 52, 50, 48, 46, 44, 42, 40, 38, 36, 34, 32, 30, 28, 26, 24,
                                        22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i words0 = _mm512_permutex2var_epi16(x[0].v, even, x[1].v);
  const __m512i words1 = _mm512_permutex2var_epi16(x[2].v, even, x[3].v);
  const __m512i order = _mm512_setr_epi64(0, 2, 4, 6, 1, 3, 5, 7);
  const __m512i natural = _mm512_permutexvar_epi64(order, _mm512_packus_epi16(words0, words1));
  const __m512i bytes = _mm512_xor_si512(natural, _mm512_set1_epi8(sign == Sign::kS8 ? -128 : 0));
  if (n >= 64) return _mm512_storeu_si512(p, bytes);
  _mm512_mask_storeu_epi8(p, (__mmask64{1} << n) - 1, bytes);
}
EK_INLINE void store_i32_n(int32_t* p, I32 x, size_t n) {
  if (n >= 16) return store_i32(p, x);
  _mm512_mask_storeu_epi32(p, first_lanes(n), x.v);
}
EK_INLINE void store_f32_n(float* p, F32 x, size_t n) {
  if (n >= 16) return store_f32(p, x);
  _mm512_mask_storeu_ps(p, first_lanes(n), x.v);
}
EK_INLINE I32 load_i32_n(const int32_t* p, size_t n) { return {_mm512_maskz_loadu_epi32(first_lanes(n), p)}; }
EK_INLINE F32 load_f32_n(const float* p, size_t n) { return {_mm512_maskz_loadu_ps(first_lanes(n), p)}; }
EK_INLINE I32 load_u8_n(const uint8_t* p, size_t n) {
  return {_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p))};
}
EK_INLINE I32 load_s8_n(const uint8_t* p, size_t n) {
  return {_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_lanes(n), p))};
}

EK_INLINE void store_f16_n(uint16_t* p, F32 x, size_t n) {
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
EK_INLINE void store_bf16_n(uint16_t* p, F32 x, size_t n) {
  const __m512i bits = _mm512_castps_si512(x.v), one = _mm512_set1_epi32(1);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  const __m512i kept = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x400000));
  _mm256_mask_storeu_epi16(p, first_lanes(n), _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}

/// As in tails.h. Four vectors become one of bytes with saturating packs, which leave little of the clamp to do: the
/// conversion needs x < 2^31 (hi holds it there), turns what is far below, and a NaN, into the smallest integer, and
/// the packs stop at int16 and at uint8. int8 is uint8 with 128 added before and taken off after.
struct ByteStore {
  __m512 hi;
  __m512i zero_point, low_byte, high_byte, order;
  bool fits, bounded, flipped;

  static constexpr bool kStoresRows = true;

  EK_INLINE ByteStore(float low, float high, int32_t zero, Sign sign, bool below_2_31 = false)
      : hi(_mm512_set1_ps(high)),
        zero_point(_mm512_set1_epi16(static_cast<int16_t>(zero + (sign == Sign::kS8 ? 128 : 0)))),
        low_byte(byte_of(low, zero, sign)),
        high_byte(byte_of(high, zero, sign)),
        order(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15)),
        fits(below_2_31),
        bounded(high - low < 255.0f),
        flipped(sign == Sign::kS8) {}

  static EK_INLINE __m512i byte_of(float bound, int32_t zero, Sign sign) {
    return _mm512_set1_epi8(static_cast<int8_t>(static_cast<int32_t>(bound) + zero + (sign == Sign::kS8 ? 128 : 0)));
  }

  /// Multipliers below 1 keep what was an int32 under 2^31, which saves the min.
  template <int S>
  EK_INLINE void expect(const F32 (&multiplier)[S]) {
    __mmask16 large = 0;
    unroll<S>([&](auto s) EK_LAMBDA {
      large |= _mm512_cmp_ps_mask(_mm512_abs_ps(multiplier[s.value].v), _mm512_set1_ps(1.0f), _CMP_NLT_UQ);
    });
    fits = large == 0;
  }

  template <int S>
  EK_INLINE void store(uint8_t* p, const F32 (&x)[S], size_t n) const {
    const __m512i natural = _mm512_permutexvar_epi32(order, packed(x));
    if (S == 4 && n >= 64) return _mm512_storeu_si512(p, natural);
    if (S == 1) return _mm_mask_storeu_epi8(p, first_lanes(n), _mm512_castsi512_si128(natural));
    _mm512_mask_storeu_epi8(p, n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1, natural);
  }
  /// The first n bytes of each of some rows of S vectors, four vectors at most together; rows are ld bytes apart.
  template <int S, int N>
  EK_INLINE void store_rows(uint8_t* p, size_t ld, const F32 (&x)[N], size_t n) const {
    static_assert(S <= 2 && N <= 4);
    const __m512i natural = _mm512_permutexvar_epi32(order, packed(x));
    unroll<N / S>([&](auto r) EK_LAMBDA {
      uint8_t* const to = p + r.value * ld;
      if constexpr (S == 1) {
        const __m128i row = _mm512_extracti32x4_epi32(natural, r.value);
        if (n >= 16) return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), row);
        _mm_mask_storeu_epi8(to, first_lanes(n), row);
      } else {
        const __m256i row = _mm512_extracti64x4_epi64(natural, r.value);
        if (n >= 32) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), row);
        _mm256_mask_storeu_epi8(to, (__mmask32{1} << n) - 1, row);
      }
    });
  }
  /// Packing within lanes leads straight back from block order to the natural one.
  EK_INLINE void store_block(uint8_t* p, const F32 (&x)[4]) const { _mm512_storeu_si512(p, packed(x)); }

 private:
  /// Bytes in the order that packing within lanes gives.
  template <int S>
  EK_INLINE __m512i packed(const F32 (&given)[S]) const {
    __m512 x[S];
    unroll<S>([&](auto s) EK_LAMBDA { x[s.value] = given[s.value].v; });
    if (!fits) {  // hi < x ? hi : x, so that a NaN stays one
      unroll<S>([&](auto s) EK_LAMBDA { x[s.value] = _mm512_min_ps(hi, x[s.value]); });
    }
    __m512i q[4];
    unroll<4>([&](auto s) EK_LAMBDA {
      if constexpr (s.value < S) q[s.value] = _mm512_cvtps_epi32(x[s.value]);
      if constexpr (s.value >= S) q[s.value] = _mm512_setzero_si512();
    });
    const __m512i words0 = _mm512_adds_epi16(_mm512_packs_epi32(q[0], q[1]), zero_point);
    const __m512i words1 = S <= 2 ? words0 : _mm512_adds_epi16(_mm512_packs_epi32(q[2], q[3]), zero_point);
    __m512i bytes = _mm512_packus_epi16(words0, words1);
    if (bounded) bytes = _mm512_min_epu8(_mm512_max_epu8(bytes, low_byte), high_byte);
    return flipped ? _mm512_xor_si512(bytes, _mm512_set1_epi8(-128)) : bytes;
  }
};

// A block of 64 channels in the order that in-lane unpacking gives: 128-bit lane L of vector j holds channels 16L + 4j
// to 16L + 4j + 3, where the natural order has lane j of vector L. The two differ by a 4 x 4 transpose of lanes.
EK_INLINE void to_block_order(__m512i (&v)[4]) {
  const __m512i lo01 = _mm512_shuffle_i32x4(v[0], v[1], 0x44), hi01 = _mm512_shuffle_i32x4(v[0], v[1], 0xEE);
  const __m512i lo23 = _mm512_shuffle_i32x4(v[2], v[3], 0x44), hi23 = _mm512_shuffle_i32x4(v[2], v[3], 0xEE);
  v[0] = _mm512_shuffle_i32x4(lo01, lo23, 0x88);
  v[1] = _mm512_shuffle_i32x4(lo01, lo23, 0xDD);
  v[2] = _mm512_shuffle_i32x4(hi01, hi23, 0x88);
  v[3] = _mm512_shuffle_i32x4(hi01, hi23, 0xDD);
}
EK_INLINE void to_block_order(Line (&x)[4]) {
  __m512i v[4] = {x[0].v, x[1].v, x[2].v, x[3].v};
  to_block_order(v);
  unroll<4>([&](auto s) EK_LAMBDA { x[s.value].v = v[s.value]; });
}
EK_INLINE void to_block_order(I32 (&x)[4]) {
  __m512i v[4] = {x[0].v, x[1].v, x[2].v, x[3].v};
  to_block_order(v);
  unroll<4>([&](auto s) EK_LAMBDA { x[s.value].v = v[s.value]; });
}
EK_INLINE void to_block_order(F32 (&x)[4]) {
  __m512i v[4];
  unroll<4>([&](auto s) EK_LAMBDA { v[s.value] = _mm512_castps_si512(x[s.value].v); });
  to_block_order(v);
  unroll<4>([&](auto s) EK_LAMBDA { x[s.value].v = _mm512_castsi512_ps(v[s.value]); });
}
EK_INLINE void interleave_block(const uint8_t* t0, const uint8_t* t1, const uint8_t* t2, const uint8_t* t3,
                                Line (&lines)[4]) {
  const __m512i a = _mm512_loadu_si512(t0), b = _mm512_loadu_si512(t1);
  const __m512i c = _mm512_loadu_si512(t2), d = _mm512_loadu_si512(t3);
  const __m512i ab0 = _mm512_unpacklo_epi8(a, b), ab1 = _mm512_unpackhi_epi8(a, b);
  const __m512i cd0 = _mm512_unpacklo_epi8(c, d), cd1 = _mm512_unpackhi_epi8(c, d);
  lines[0].v = _mm512_unpacklo_epi16(ab0, cd0);
  lines[1].v = _mm512_unpackhi_epi16(ab0, cd0);
  lines[2].v = _mm512_unpacklo_epi16(ab1, cd1);
  lines[3].v = _mm512_unpackhi_epi16(ab1, cd1);
}

}  // namespace
}  // namespace ek
