// simd_neon_base: 16 logical lanes as four q registers. Included by the three NEON variants, which add dot().
#pragma once

#include <arm_neon.h>
#include <stddef.h>
#include <stdint.h>

#include "cpu/isa.h"
#include "simd/copy_bytes.h"
#include "simd/sign.h"
#include "simd/unroll.h"

namespace ek {
namespace {

struct I32 {
  int32x4_t v0, v1, v2, v3;
};
struct F32 {
  float32x4_t v0, v1, v2, v3;
};
struct Line {
  int8x16_t v0, v1, v2, v3;
};
struct Act {
  int8x16_t v;  // the quad, four times
};
using Quad = Act;

EK_INLINE I32 load_i32(const int32_t* p) {
  return {vld1q_s32(p), vld1q_s32(p + 4), vld1q_s32(p + 8), vld1q_s32(p + 12)};
}
EK_INLINE void store_i32(int32_t* p, I32 x) {
  vst1q_s32(p, x.v0);
  vst1q_s32(p + 4, x.v1);
  vst1q_s32(p + 8, x.v2);
  vst1q_s32(p + 12, x.v3);
}
EK_INLINE void stream_i32(int32_t* p, I32 x) { store_i32(p, x); }
EK_INLINE I32 set1_i32(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {v, v, v, v};
}
EK_INLINE I32 add_i32(I32 a, I32 b) {
  return {vaddq_s32(a.v0, b.v0), vaddq_s32(a.v1, b.v1), vaddq_s32(a.v2, b.v2), vaddq_s32(a.v3, b.v3)};
}
EK_INLINE F32 load_f32(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
EK_INLINE void store_f32(float* p, F32 x) {
  vst1q_f32(p, x.v0);
  vst1q_f32(p + 4, x.v1);
  vst1q_f32(p + 8, x.v2);
  vst1q_f32(p + 12, x.v3);
}
EK_INLINE void stream_f32(float* p, F32 x) { store_f32(p, x); }
EK_INLINE F32 set1_f32(float x) {
  const float32x4_t v = vdupq_n_f32(x);
  return {v, v, v, v};
}
EK_INLINE F32 add_f32(F32 a, F32 b) {
  return {vaddq_f32(a.v0, b.v0), vaddq_f32(a.v1, b.v1), vaddq_f32(a.v2, b.v2), vaddq_f32(a.v3, b.v3)};
}
EK_INLINE F32 mul_f32(F32 a, F32 b) {
  return {vmulq_f32(a.v0, b.v0), vmulq_f32(a.v1, b.v1), vmulq_f32(a.v2, b.v2), vmulq_f32(a.v3, b.v3)};
}
EK_INLINE F32 fma_f32(F32 a, F32 b, F32 c) {
  return {vfmaq_f32(c.v0, a.v0, b.v0), vfmaq_f32(c.v1, a.v1, b.v1), vfmaq_f32(c.v2, a.v2, b.v2),
          vfmaq_f32(c.v3, a.v3, b.v3)};
}
EK_INLINE F32 div_f32(F32 a, F32 b) {
  return {vdivq_f32(a.v0, b.v0), vdivq_f32(a.v1, b.v1), vdivq_f32(a.v2, b.v2), vdivq_f32(a.v3, b.v3)};
}
EK_INLINE F32 sqrt_f32(F32 a) { return {vsqrtq_f32(a.v0), vsqrtq_f32(a.v1), vsqrtq_f32(a.v2), vsqrtq_f32(a.v3)}; }
// A compare and a select, not fmaxnm: a NaN in a must give b, of whatever kind the NaN is.
EK_INLINE float32x4_t max_q(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
EK_INLINE float32x4_t min_q(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
EK_INLINE F32 max_f32(F32 a, F32 b) {
  return {max_q(a.v0, b.v0), max_q(a.v1, b.v1), max_q(a.v2, b.v2), max_q(a.v3, b.v3)};
}
EK_INLINE F32 min_f32(F32 a, F32 b) {
  return {min_q(a.v0, b.v0), min_q(a.v1, b.v1), min_q(a.v2, b.v2), min_q(a.v3, b.v3)};
}
EK_INLINE F32 abs_f32(F32 a) { return {vabsq_f32(a.v0), vabsq_f32(a.v1), vabsq_f32(a.v2), vabsq_f32(a.v3)}; }
EK_INLINE F32 sub_f32(F32 a, F32 b) {
  return {vsubq_f32(a.v0, b.v0), vsubq_f32(a.v1, b.v1), vsubq_f32(a.v2, b.v2), vsubq_f32(a.v3, b.v3)};
}
EK_INLINE F32 round_f32(F32 a) { return {vrndnq_f32(a.v0), vrndnq_f32(a.v1), vrndnq_f32(a.v2), vrndnq_f32(a.v3)}; }
EK_INLINE F32 fraction_f32(F32 a) { return sub_f32(a, round_f32(a)); }
EK_INLINE F32 max_size_f32(F32 a, F32 b) { return max_f32(abs_f32(a), b); }
EK_INLINE float max_lane(F32 a) { return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v0, a.v1), vmaxq_f32(a.v2, a.v3))); }
EK_INLINE I32 bits_i32(F32 a) {
  return {vreinterpretq_s32_f32(a.v0), vreinterpretq_s32_f32(a.v1), vreinterpretq_s32_f32(a.v2),
          vreinterpretq_s32_f32(a.v3)};
}
EK_INLINE I32 size_bits(F32 a) { return bits_i32(abs_f32(a)); }
EK_INLINE I32 max_i32(I32 a, I32 b) {
  return {vmaxq_s32(a.v0, b.v0), vmaxq_s32(a.v1, b.v1), vmaxq_s32(a.v2, b.v2), vmaxq_s32(a.v3, b.v3)};
}
EK_INLINE int32_t max_lane(I32 a) { return vmaxvq_s32(vmaxq_s32(vmaxq_s32(a.v0, a.v1), vmaxq_s32(a.v2, a.v3))); }
EK_INLINE bool all_below(F32 a, F32 b) {
  const uint32x4_t below = vandq_u32(vandq_u32(vcltq_f32(a.v0, b.v0), vcltq_f32(a.v1, b.v1)),
                                     vandq_u32(vcltq_f32(a.v2, b.v2), vcltq_f32(a.v3, b.v3)));
  return vminvq_u32(below) != 0;
}
EK_INLINE F32 select_below(F32 a, F32 b, F32 x, F32 y) {
  return {vbslq_f32(vcltq_f32(a.v0, b.v0), x.v0, y.v0), vbslq_f32(vcltq_f32(a.v1, b.v1), x.v1, y.v1),
          vbslq_f32(vcltq_f32(a.v2, b.v2), x.v2, y.v2), vbslq_f32(vcltq_f32(a.v3, b.v3), x.v3, y.v3)};
}
EK_INLINE F32 select_equal(F32 a, F32 b, F32 x, F32 y) {
  return {vbslq_f32(vceqq_f32(a.v0, b.v0), x.v0, y.v0), vbslq_f32(vceqq_f32(a.v1, b.v1), x.v1, y.v1),
          vbslq_f32(vceqq_f32(a.v2, b.v2), x.v2, y.v2), vbslq_f32(vceqq_f32(a.v3, b.v3), x.v3, y.v3)};
}
EK_INLINE F32 as_f32(I32 a) {
  return {vreinterpretq_f32_s32(a.v0), vreinterpretq_f32_s32(a.v1), vreinterpretq_f32_s32(a.v2),
          vreinterpretq_f32_s32(a.v3)};
}
EK_INLINE I32 sub_i32(I32 a, I32 b) {
  return {vsubq_s32(a.v0, b.v0), vsubq_s32(a.v1, b.v1), vsubq_s32(a.v2, b.v2), vsubq_s32(a.v3, b.v3)};
}
EK_INLINE I32 mul_i32(I32 a, I32 b) {
  return {vmulq_s32(a.v0, b.v0), vmulq_s32(a.v1, b.v1), vmulq_s32(a.v2, b.v2), vmulq_s32(a.v3, b.v3)};
}
template <int kBits>
EK_INLINE I32 shift_left(I32 a) {
  return {vshlq_n_s32(a.v0, kBits), vshlq_n_s32(a.v1, kBits), vshlq_n_s32(a.v2, kBits), vshlq_n_s32(a.v3, kBits)};
}
template <int kBits>
EK_INLINE I32 shift_right(I32 a) {
  return {vshrq_n_s32(a.v0, kBits), vshrq_n_s32(a.v1, kBits), vshrq_n_s32(a.v2, kBits), vshrq_n_s32(a.v3, kBits)};
}
EK_INLINE F32 select_bits(uint32_t bits, F32 x, F32 y) {
  const uint32x4_t all = vdupq_n_u32(bits);
  const uint32x4_t first = {1, 2, 4, 8}, second = vshlq_n_u32(first, 4), third = vshlq_n_u32(first, 8),
                   fourth = vshlq_n_u32(first, 12);
  return {vbslq_f32(vtstq_u32(all, first), x.v0, y.v0), vbslq_f32(vtstq_u32(all, second), x.v1, y.v1),
          vbslq_f32(vtstq_u32(all, third), x.v2, y.v2), vbslq_f32(vtstq_u32(all, fourth), x.v3, y.v3)};
}
EK_INLINE float sum_lanes(F32 a) {
  const float32x4_t s4 = vaddq_f32(vaddq_f32(a.v0, a.v2), vaddq_f32(a.v1, a.v3));
  const float32x2_t s2 = vadd_f32(vget_low_f32(s4), vget_high_f32(s4));
  return vget_lane_f32(vpadd_f32(s2, s2), 0);
}
EK_INLINE float32x4_t keep_q(float32x4_t a, uint32_t mask) {
  return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(a), vdupq_n_u32(mask)));
}
EK_INLINE F32 keep_bits(F32 a, uint32_t mask) {
  return {keep_q(a.v0, mask), keep_q(a.v1, mask), keep_q(a.v2, mask), keep_q(a.v3, mask)};
}
EK_INLINE float32x4_t pow2_q(int32x4_t n) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}
EK_INLINE F32 pow2_f32(I32 n) { return {pow2_q(n.v0), pow2_q(n.v1), pow2_q(n.v2), pow2_q(n.v3)}; }
EK_INLINE F32 even_lanes(F32 a, F32 b) {
  return {vuzp1q_f32(a.v0, a.v1), vuzp1q_f32(a.v2, a.v3), vuzp1q_f32(b.v0, b.v1), vuzp1q_f32(b.v2, b.v3)};
}
EK_INLINE F32 odd_lanes(F32 a, F32 b) {
  return {vuzp2q_f32(a.v0, a.v1), vuzp2q_f32(a.v2, a.v3), vuzp2q_f32(b.v0, b.v1), vuzp2q_f32(b.v2, b.v3)};
}
EK_INLINE uint16x4_t f16_words(float32x4_t x) { return vreinterpret_u16_f16(vcvt_f16_f32(x)); }
EK_INLINE void store_f16(uint16_t* p, F32 x) {
  vst1q_u16(p, vcombine_u16(f16_words(x.v0), f16_words(x.v1)));
  vst1q_u16(p + 8, vcombine_u16(f16_words(x.v2), f16_words(x.v3)));
}
EK_INLINE uint16x4_t bf16_words(float32x4_t x) {
  const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}
EK_INLINE void store_bf16(uint16_t* p, F32 x) {
  vst1q_u16(p, vcombine_u16(bf16_words(x.v0), bf16_words(x.v1)));
  vst1q_u16(p + 8, vcombine_u16(bf16_words(x.v2), bf16_words(x.v3)));
}
EK_INLINE F32 to_f32(I32 a) {
  return {vcvtq_f32_s32(a.v0), vcvtq_f32_s32(a.v1), vcvtq_f32_s32(a.v2), vcvtq_f32_s32(a.v3)};
}
EK_INLINE I32 rne_i32(F32 a) {
  return {vcvtnq_s32_f32(a.v0), vcvtnq_s32_f32(a.v1), vcvtnq_s32_f32(a.v2), vcvtnq_s32_f32(a.v3)};
}
EK_INLINE I32 load_u8(const uint8_t* p) {
  const uint8x16_t x = vld1q_u8(p);
  const uint16x8_t lo = vmovl_u8(vget_low_u8(x)), hi = vmovl_high_u8(x);
  return {vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(lo))), vreinterpretq_s32_u32(vmovl_high_u16(lo)),
          vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(hi))), vreinterpretq_s32_u32(vmovl_high_u16(hi))};
}
EK_INLINE I32 load_s8(const uint8_t* p) {
  const int8x16_t x = vreinterpretq_s8_u8(vld1q_u8(p));
  const int16x8_t lo = vmovl_s8(vget_low_s8(x)), hi = vmovl_high_s8(x);
  return {vmovl_s16(vget_low_s16(lo)), vmovl_high_s16(lo), vmovl_s16(vget_low_s16(hi)), vmovl_high_s16(hi)};
}
EK_INLINE uint8x16_t low_bytes(I32 x) {
  const int16x8_t lo = vcombine_s16(vmovn_s32(x.v0), vmovn_s32(x.v1)),
                  hi = vcombine_s16(vmovn_s32(x.v2), vmovn_s32(x.v3));
  return vreinterpretq_u8_s8(vcombine_s8(vmovn_s16(lo), vmovn_s16(hi)));
}
EK_INLINE void store_bytes(uint8_t* p, I32 x) { vst1q_u8(p, low_bytes(x)); }
EK_INLINE void store_triples(uint8_t* p, I32 a, I32 b, I32 c) {
  vst3q_u8(p, (uint8x16x3_t{{low_bytes(a), low_bytes(b), low_bytes(c)}}));
}
EK_INLINE Line load_line(const int8_t* p) {
  return {vld1q_s8(p), vld1q_s8(p + 16), vld1q_s8(p + 32), vld1q_s8(p + 48)};
}
EK_INLINE void store_line(uint8_t* p, Line x) {
  vst1q_u8(p, vreinterpretq_u8_s8(x.v0));
  vst1q_u8(p + 16, vreinterpretq_u8_s8(x.v1));
  vst1q_u8(p + 32, vreinterpretq_u8_s8(x.v2));
  vst1q_u8(p + 48, vreinterpretq_u8_s8(x.v3));
}
EK_INLINE int8x16_t max_u8_q(int8x16_t a, int8x16_t b) {
  return vreinterpretq_s8_u8(vmaxq_u8(vreinterpretq_u8_s8(a), vreinterpretq_u8_s8(b)));
}
EK_INLINE Line max_u8(Line a, Line b) {
  return {max_u8_q(a.v0, b.v0), max_u8_q(a.v1, b.v1), max_u8_q(a.v2, b.v2), max_u8_q(a.v3, b.v3)};
}
EK_INLINE Line max_s8(Line a, Line b) {
  return {vmaxq_s8(a.v0, b.v0), vmaxq_s8(a.v1, b.v1), vmaxq_s8(a.v2, b.v2), vmaxq_s8(a.v3, b.v3)};
}
struct ByteTable {
  uint8x16x4_t quarter[4];
  EK_INLINE explicit ByteTable(const uint8_t* t) {
    for (int i = 0; i < 4; ++i) {
      quarter[i] = {
          {vld1q_u8(t + 64 * i), vld1q_u8(t + 64 * i + 16), vld1q_u8(t + 64 * i + 32), vld1q_u8(t + 64 * i + 48)}};
    }
  }
  EK_INLINE int8x16_t of(int8x16_t x) const {
    uint8x16_t at = vreinterpretq_u8_s8(x), y = vqtbl4q_u8(quarter[0], at);
    for (int i = 1; i < 4; ++i) {  // what lies outside of a quarter leaves y as it is
      at = vsubq_u8(at, vdupq_n_u8(64));
      y = vqtbx4q_u8(y, quarter[i], at);
    }
    return vreinterpretq_s8_u8(y);
  }
  EK_INLINE Line of(Line x) const { return {of(x.v0), of(x.v1), of(x.v2), of(x.v3)}; }
};
EK_INLINE Act to_act(uint32_t quad) { return {vreinterpretq_s8_u32(vdupq_n_u32(quad))}; }
EK_INLINE Act load_act(const uint8_t* p) { return to_act(load_u32(p)); }
EK_INLINE Act flip_act(Act a) { return {veorq_s8(a.v, vdupq_n_s8(-128))}; }
EK_INLINE void keep(Line&) {}
EK_INLINE void keep(I32&) {}
EK_INLINE Line interleave4(const uint8_t* t0, const uint8_t* t1, const uint8_t* t2, const uint8_t* t3) {
  const uint8x16x2_t ab = vzipq_u8(vld1q_u8(t0), vld1q_u8(t1)), cd = vzipq_u8(vld1q_u8(t2), vld1q_u8(t3));
  const uint16x8x2_t lo = vzipq_u16(vreinterpretq_u16_u8(ab.val[0]), vreinterpretq_u16_u8(cd.val[0]));
  const uint16x8x2_t hi = vzipq_u16(vreinterpretq_u16_u8(ab.val[1]), vreinterpretq_u16_u8(cd.val[1]));
  return {vreinterpretq_s8_u16(lo.val[0]), vreinterpretq_s8_u16(lo.val[1]), vreinterpretq_s8_u16(hi.val[0]),
          vreinterpretq_s8_u16(hi.val[1])};
}
EK_INLINE F32 load_f16(const uint16_t* p) {
  const auto four = [&](int at) EK_LAMBDA { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + at))); };
  return {four(0), four(4), four(8), four(12)};
}
EK_INLINE F32 load_bf16(const uint16_t* p) {
  const auto four = [&](int at) EK_LAMBDA { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + at), 16)); };
  return {four(0), four(4), four(8), four(12)};
}
/// The bytes as int8: what dot_u8 multiplies where the instructions know no unsigned operand.
EK_INLINE Line less_128(Line x) {
  const int8x16_t flip = vdupq_n_s8(-128);
  return {veorq_s8(x.v0, flip), veorq_s8(x.v1, flip), veorq_s8(x.v2, flip), veorq_s8(x.v3, flip)};
}
EK_INLINE Line low_pairs(Line x) {
  const int8x16_t low = vdupq_n_s8(3);
  return {vandq_s8(x.v0, low), vandq_s8(x.v1, low), vandq_s8(x.v2, low), vandq_s8(x.v3, low)};
}
EK_INLINE Line next_pairs(Line x) {
  const auto next = [](int8x16_t v) EK_LAMBDA { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 2)); };
  return {next(x.v0), next(x.v1), next(x.v2), next(x.v3)};
}
EK_INLINE Line times3(Line x) {
  const int8x16_t three = vdupq_n_s8(3);
  return {vmulq_s8(x.v0, three), vmulq_s8(x.v1, three), vmulq_s8(x.v2, three), vmulq_s8(x.v3, three)};
}
EK_INLINE Line thirds(Line x) {
  const auto third = [](int8x16_t v) EK_LAMBDA {  // (x + floor(x / 2)) / 128, both halvings downward
    const uint8x16_t u = vreinterpretq_u8_s8(v);
    return vreinterpretq_s8_u8(vshrq_n_u8(vhaddq_u8(u, vshrq_n_u8(u, 1)), 6));
  };
  return {third(x.v0), third(x.v1), third(x.v2), third(x.v3)};
}
constexpr bool kByteDots = false;
constexpr int32_t kDotOffset = 128;
EK_INLINE Quad load_quad(const int8_t* p) { return load_act(reinterpret_cast<const uint8_t*>(p)); }
EK_INLINE Line low_nibbles(Line x) {
  const int8x16_t low = vdupq_n_s8(0x0F);
  return {vandq_s8(x.v0, low), vandq_s8(x.v1, low), vandq_s8(x.v2, low), vandq_s8(x.v3, low)};
}
EK_INLINE Line high_nibbles(Line x) {
  const auto high = [](int8x16_t v) EK_LAMBDA { return vreinterpretq_s8_u8(vshrq_n_u8(vreinterpretq_u8_s8(v), 4)); };
  return {high(x.v0), high(x.v1), high(x.v2), high(x.v3)};
}

}  // namespace
}  // namespace ek

#include "simd/block_identity.h"
#include "simd/tails.h"
