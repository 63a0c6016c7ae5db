// simd_avxvnni: vpdpbusd on ymm (the wrapping form; vpdpbusds would saturate).
//
// Compiled without AVX-VNNI but with AVX-512 VNNI, the same body uses the EVEX encoding of the same instruction: the
// C++ tests run it that way on machines that have only the latter.
#pragma once

#include "simd/simd_x86_256.h"

namespace ek {
namespace {

constexpr Isa kIsa = Isa::kAvxVnni;
constexpr Sign kNativeSign = Sign::kU8;
constexpr int kTileRows = 6, kTileStrips = 1;
constexpr bool kByteDots = true;
constexpr int kF32TileRows = 6, kF32Sums = 6;  // 12 registers of sums, 2 of weights, 1 of x

struct Act {
  __m256i quad;
};

EK_INLINE Act to_act(uint32_t quad) { return {_mm256_set1_epi32(static_cast<int32_t>(quad))}; }
EK_INLINE Act load_act(const uint8_t* p) { return to_act(load_u32(p)); }
EK_INLINE Act flip_act(Act a) { return {_mm256_xor_si256(a.quad, _mm256_set1_epi8(-128))}; }
EK_INLINE __m256i dot_half(__m256i acc, __m256i a, __m256i w) {
#ifdef __AVXVNNI__
  return _mm256_dpbusd_avx_epi32(acc, a, w);
#else
  return _mm256_dpbusd_epi32(acc, a, w);
#endif
}
EK_INLINE I32 dot(I32 acc, Act a, Line w) { return {dot_half(acc.lo, a.quad, w.lo), dot_half(acc.hi, a.quad, w.hi)}; }
EK_INLINE I32 dot(I32 acc, Line a, Line w) { return {dot_half(acc.lo, a.lo, w.lo), dot_half(acc.hi, a.hi, w.hi)}; }
EK_INLINE I32 dot_u8(I32 acc, Quad a, Line w) { return {dot_half(acc.lo, w.lo, a.v), dot_half(acc.hi, w.hi, a.v)}; }
EK_INLINE I32 dot_u4(I32 acc, Quad a, Line w) { return {dot_half(acc.lo, w.lo, a.v), dot_half(acc.hi, w.hi, a.v)}; }

}  // namespace
}  // namespace ek
