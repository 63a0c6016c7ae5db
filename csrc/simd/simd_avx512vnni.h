// simd_avx512vnni: one zmm is one logical vector; vpdpbusd, the wrapping form.
#pragma once

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/isa.h"
#include "simd/sign.h"
#include "simd/unroll.h"

namespace ek {
namespace {

constexpr Isa kIsa = Isa::kAvx512Vnni;
constexpr Sign kNativeSign = Sign::kU8;
constexpr int kTileRows = 6, kTileStrips = 4;  // 24 accumulators + 4 lines + activations of 32 registers

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

EK_INLINE I32 load_i32(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
EK_INLINE void store_i32(int32_t* p, I32 x) { _mm512_storeu_si512(p, x.v); }
EK_INLINE I32 set1_i32(int32_t x) { return {_mm512_set1_epi32(x)}; }
EK_INLINE I32 add_i32(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
EK_INLINE F32 load_f32(const float* p) { return {_mm512_loadu_ps(p)}; }
EK_INLINE void store_f32(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }
EK_INLINE F32 set1_f32(float x) { return {_mm512_set1_ps(x)}; }
EK_INLINE F32 add_f32(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
EK_INLINE F32 mul_f32(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
EK_INLINE F32 div_f32(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
EK_INLINE F32 max_f32(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
EK_INLINE F32 min_f32(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
EK_INLINE F32 abs_f32(F32 a) { return {_mm512_abs_ps(a.v)}; }
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
EK_INLINE Line load_line(const int8_t* p) { return {_mm512_loadu_si512(p)}; }
EK_INLINE Act load_act(const uint8_t* p) {
  int32_t quad;
  __builtin_memcpy(&quad, p, 4);
  return {_mm512_set1_epi32(quad)};
}
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
EK_INLINE I32 dot(I32 acc, Act a, Line w) { return {_mm512_dpbusd_epi32(acc.v, a.v, w.v)}; }
EK_INLINE I32 dot(I32 acc, Line a, Line w) { return {_mm512_dpbusd_epi32(acc.v, a.v, w.v)}; }

}  // namespace
}  // namespace ek
