// simd_neon_i8mm: NEON with smmla, which multiplies 2 rows x 8 k by 8 k x 2 columns at once.
//
// The packed layout is the common one (4 values of k to a line). Two lines of consecutive k-quads, zipped by 32-bit
// words, give the 8 x 2 operands; the zips are shared by all rows of the tile. A Pair is a 2 x 16 block of accumulators
// whose registers hold (row 0 col c, row 0 col c+1, row 1 col c, row 1 col c+1).
#pragma once

#include "simd/simd_neon_sdot.h"

#define EK_SIMD_MMLA 1

namespace ek {
namespace {

constexpr Isa kIsa = Isa::kNeonI8mm;
constexpr Sign kNativeSign = Sign::kS8;
constexpr int kTileRows = 6, kTileStrips = 1;
constexpr int kF32TileRows = 6, kF32Sums = 6;  // 24 registers of sums, 4 of weights, 1 of x

struct Pair {
  int32x4_t v[8];  // columns 2i, 2i+1
};
struct Line8 {
  int8x16_t v[8];  // columns 2i, 2i+1 x 8 values of k
};

EK_INLINE Line8 zip_lines(Line even, Line odd) {
  const auto lo = [](int8x16_t a, int8x16_t b) EK_LAMBDA {
    return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
  };
  const auto hi = [](int8x16_t a, int8x16_t b) EK_LAMBDA {
    return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b)));
  };
  return {{lo(even.v0, odd.v0), hi(even.v0, odd.v0), lo(even.v1, odd.v1), hi(even.v1, odd.v1), lo(even.v2, odd.v2),
           hi(even.v2, odd.v2), lo(even.v3, odd.v3), hi(even.v3, odd.v3)}};
}
/// 8 bytes of each of two rows.
EK_INLINE int8x16_t load_rows(const uint8_t* row0, const uint8_t* row1) {
  return vreinterpretq_s8_u8(vcombine_u8(vld1_u8(row0), vld1_u8(row1)));
}
EK_INLINE int8x16_t flip_rows(int8x16_t rows) { return veorq_s8(rows, vdupq_n_s8(-128)); }
EK_INLINE Pair to_pair(I32 row0, I32 row1) {
  const auto lo = [](int32x4_t a, int32x4_t b) EK_LAMBDA { return vcombine_s32(vget_low_s32(a), vget_low_s32(b)); };
  const auto hi = [](int32x4_t a, int32x4_t b) EK_LAMBDA { return vcombine_s32(vget_high_s32(a), vget_high_s32(b)); };
  return {{lo(row0.v0, row1.v0), hi(row0.v0, row1.v0), lo(row0.v1, row1.v1), hi(row0.v1, row1.v1), lo(row0.v2, row1.v2),
           hi(row0.v2, row1.v2), lo(row0.v3, row1.v3), hi(row0.v3, row1.v3)}};
}
EK_INLINE I32 row_of(const Pair& p, Int<0>) {
  const auto lo = [](int32x4_t a, int32x4_t b) EK_LAMBDA { return vcombine_s32(vget_low_s32(a), vget_low_s32(b)); };
  return {lo(p.v[0], p.v[1]), lo(p.v[2], p.v[3]), lo(p.v[4], p.v[5]), lo(p.v[6], p.v[7])};
}
EK_INLINE I32 row_of(const Pair& p, Int<1>) {
  const auto hi = [](int32x4_t a, int32x4_t b) EK_LAMBDA { return vcombine_s32(vget_high_s32(a), vget_high_s32(b)); };
  return {hi(p.v[0], p.v[1]), hi(p.v[2], p.v[3]), hi(p.v[4], p.v[5]), hi(p.v[6], p.v[7])};
}
EK_INLINE void dot_pair(Pair& acc, int8x16_t rows, const Line8& w) {
  unroll<8>([&](auto i) EK_LAMBDA { acc.v[i.value] = vmmlaq_s32(acc.v[i.value], rows, w.v[i.value]); });
}

}  // namespace
}  // namespace ek
