// simd_scalar: the thin vector layer in plain C++, and the definition that the other simd_<isa>.h files follow.
//
// Every ISA offers the same types and functions on *logical* vectors of 16 lanes, so that a kernel body is written
// once:
//   I32, F32   16 lanes                     Line   64 bytes: 16 columns x 4 values of k (packed weights, or
//   activations) Act        4 activation bytes, the same for all 16 columns
// Activation bytes are of kNativeSign. dot() adds the four products of each column to its lane, exactly, mod 2^32.
// dot_u4() does the same for weights in [0, 15] and a Quad: four activation bytes that are signed on every ISA.
// max_f32(a, b) is `a > b ? a : b` and min_f32(a, b) `a < b ? a : b`: a NaN in a gives b.
// fma_f32: a * b + c, rounded once.
// rne_i32 rounds to nearest even; its operand lies in [-2^22, 2^22]. round_f32 takes any float.
// fraction_f32: a minus the nearest integer, exact; of a NaN or an infinity, a NaN. max_lane: no lane is a NaN.
// max_size_f32: max_f32(|a|, b). size_bits: the bits of |a|, which compare as a does; those of a NaN are the largest.
// store_biased: the first n of 64 lanes as bytes. Their lower 16 bits hold value + 128, which is in [0, 255]: what is
// stored for u8; for s8 it is the value.
// all_below: a < b in every lane; a NaN is not below. select_below: a < b ? x : y. pow2_f32: 2^n for n in [-126, 127].
// dot_u8(acc, a, w): a . (w - kDotOffset) for weights in [0, 255] and a Quad, exact, mod 2^32; kDotOffset is the ISA's.
// select_equal: a == b ? x : y; a NaN equals nothing. sub_i32 and mul_i32 wrap. shift_right keeps the sign. as_f32: the
// same bits.
// select_bits: lane i of x where bit i is set, else of y. sum_lanes adds lane i + 8 to lane i, then i + 4, i + 2, i
// + 1. even_lanes, odd_lanes: of the 32 lanes of a, then b. store_f16, store_bf16 round to nearest even, keep a NaN's
// upper bits and make it quiet.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cpu/isa.h"
#include "simd/copy_bytes.h"
#include "simd/sign.h"
#include "simd/unroll.h"

namespace ek {
namespace {

constexpr Isa kIsa = Isa::kScalar;
constexpr Sign kNativeSign = Sign::kU8;
constexpr int kTileRows = 4, kTileStrips = 1;
constexpr int kF32TileRows = 4, kF32Sums = 4;

struct I32 {
  int32_t v[16];
};
struct F32 {
  float v[16];
};
struct Line {
  uint8_t v[64];
};
struct Act {
  uint8_t v[4];
};
struct Quad {
  int8_t v[4];
};

EK_INLINE I32 load_i32(const int32_t* p) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = p[i];
  return r;
}
EK_INLINE void store_i32(int32_t* p, I32 x) {
  for (int i = 0; i < 16; ++i) p[i] = x.v[i];
}
/// Stores past the caches where the ISA can; p is 64-byte aligned.
EK_INLINE void stream_i32(int32_t* p, I32 x) { store_i32(p, x); }
EK_INLINE I32 set1_i32(int32_t x) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = x;
  return r;
}
EK_INLINE I32 add_i32(I32 a, I32 b) {
  for (int i = 0; i < 16; ++i)
    a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) + static_cast<uint32_t>(b.v[i]));
  return a;
}
EK_INLINE F32 load_f32(const float* p) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = p[i];
  return r;
}
EK_INLINE void store_f32(float* p, F32 x) {
  for (int i = 0; i < 16; ++i) p[i] = x.v[i];
}
EK_INLINE void stream_f32(float* p, F32 x) { store_f32(p, x); }
EK_INLINE F32 set1_f32(float x) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = x;
  return r;
}
EK_INLINE F32 add_f32(F32 a, F32 b) {
  for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
  return a;
}
EK_INLINE F32 mul_f32(F32 a, F32 b) {
  for (int i = 0; i < 16; ++i) a.v[i] *= b.v[i];
  return a;
}
/// a * b + c, rounded once, without a library's help: the product of two floats is exact in double, the sum there is
/// rounded to odd (its last bit set where anything was lost), and so the rounding to float that follows is the only
/// one.
EK_INLINE float fma_lane(float a, float b, float c) {
  const double product = static_cast<double>(a) * static_cast<double>(b), addend = static_cast<double>(c);
  const double sum = product + addend;
  const double back = sum - product;
  const double lost = (product - (sum - back)) + (addend - back);
  int64_t bits;
  __builtin_memcpy(&bits, &sum, sizeof bits);
  const bool is_finite = (bits & 0x7FF0000000000000) != 0x7FF0000000000000;
  if (is_finite && lost != 0 && (bits & 1) == 0) bits += (lost > 0) == (sum > 0) ? 1 : -1;
  double odd;
  __builtin_memcpy(&odd, &bits, sizeof odd);
  return static_cast<float>(odd);
}
EK_INLINE F32 fma_f32(F32 a, F32 b, F32 c) {
  for (int i = 0; i < 16; ++i) c.v[i] = fma_lane(a.v[i], b.v[i], c.v[i]);
  return c;
}
EK_INLINE F32 div_f32(F32 a, F32 b) {
  for (int i = 0; i < 16; ++i) a.v[i] /= b.v[i];
  return a;
}
EK_INLINE F32 sqrt_f32(F32 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = __builtin_sqrtf(a.v[i]);
  return a;
}
EK_INLINE F32 max_f32(F32 a, F32 b) {
  for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
EK_INLINE F32 min_f32(F32 a, F32 b) {
  for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] < b.v[i] ? a.v[i] : b.v[i];
  return a;
}
EK_INLINE F32 abs_f32(F32 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] < 0 ? -a.v[i] : a.v[i];
  return a;
}
EK_INLINE F32 sub_f32(F32 a, F32 b) {
  for (int i = 0; i < 16; ++i) a.v[i] -= b.v[i];
  return a;
}
EK_INLINE F32 round_f32(F32 a) {
  constexpr float kMagic = 8388608.0f;  // 2^23: from there on every float is an integer
  for (int i = 0; i < 16; ++i) {
    const float size = a.v[i] < 0 ? -a.v[i] : a.v[i];
    if (!(size < kMagic)) continue;
    volatile float up = size + kMagic;  // volatile: as in rne_i32
    const float rounded = up - kMagic;
    a.v[i] = __builtin_copysignf(rounded, a.v[i]);
  }
  return a;
}
EK_INLINE F32 fraction_f32(F32 a) { return sub_f32(a, round_f32(a)); }
EK_INLINE F32 max_size_f32(F32 a, F32 b) { return max_f32(abs_f32(a), b); }
EK_INLINE float max_lane(F32 a) {
  float best = a.v[0];
  for (int i = 1; i < 16; ++i) best = a.v[i] > best ? a.v[i] : best;
  return best;
}
EK_INLINE bool all_below(F32 a, F32 b) {
  bool all = true;
  for (int i = 0; i < 16; ++i) all = all && a.v[i] < b.v[i];
  return all;
}
EK_INLINE F32 select_below(F32 a, F32 b, F32 x, F32 y) {
  for (int i = 0; i < 16; ++i) y.v[i] = a.v[i] < b.v[i] ? x.v[i] : y.v[i];
  return y;
}
EK_INLINE F32 select_equal(F32 a, F32 b, F32 x, F32 y) {
  for (int i = 0; i < 16; ++i) y.v[i] = a.v[i] == b.v[i] ? x.v[i] : y.v[i];
  return y;
}
EK_INLINE F32 select_bits(uint32_t bits, F32 x, F32 y) {
  for (int i = 0; i < 16; ++i) y.v[i] = (bits >> i & 1) != 0 ? x.v[i] : y.v[i];
  return y;
}
EK_INLINE float sum_lanes(F32 a) {
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  }
  return a.v[0];
}
EK_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits;
}
EK_INLINE I32 bits_i32(F32 a) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<int32_t>(bits_of(a.v[i]));
  return r;
}
EK_INLINE I32 size_bits(F32 a) {
  I32 r = bits_i32(a);
  for (int i = 0; i < 16; ++i) r.v[i] &= 0x7FFFFFFF;
  return r;
}
EK_INLINE I32 max_i32(I32 a, I32 b) {
  for (int i = 0; i < 16; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
EK_INLINE int32_t max_lane(I32 a) {
  int32_t best = a.v[0];
  for (int i = 1; i < 16; ++i) best = a.v[i] > best ? a.v[i] : best;
  return best;
}
EK_INLINE float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}
EK_INLINE F32 as_f32(I32 a) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = float_of(static_cast<uint32_t>(a.v[i]));
  return r;
}
EK_INLINE I32 sub_i32(I32 a, I32 b) {
  for (int i = 0; i < 16; ++i)
    a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) - static_cast<uint32_t>(b.v[i]));
  return a;
}
EK_INLINE I32 mul_i32(I32 a, I32 b) {
  for (int i = 0; i < 16; ++i)
    a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) * static_cast<uint32_t>(b.v[i]));
  return a;
}
template <int kBits>
EK_INLINE I32 shift_left(I32 a) {
  for (int i = 0; i < 16; ++i) a.v[i] = static_cast<int32_t>(static_cast<uint32_t>(a.v[i]) << kBits);
  return a;
}
template <int kBits>
EK_INLINE I32 shift_right(I32 a) {
  for (int i = 0; i < 16; ++i) a.v[i] >>= kBits;
  return a;
}
EK_INLINE F32 keep_bits(F32 a, uint32_t mask) {
  for (int i = 0; i < 16; ++i) a.v[i] = float_of(bits_of(a.v[i]) & mask);
  return a;
}
EK_INLINE F32 pow2_f32(I32 n) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = float_of(static_cast<uint32_t>(n.v[i] + 127) << 23);
  return r;
}
EK_INLINE F32 even_lanes(F32 a, F32 b) {
  F32 r;
  for (int i = 0; i < 8; ++i) r.v[i] = a.v[2 * i], r.v[i + 8] = b.v[2 * i];
  return r;
}
EK_INLINE F32 odd_lanes(F32 a, F32 b) {
  F32 r;
  for (int i = 0; i < 8; ++i) r.v[i] = a.v[2 * i + 1], r.v[i + 8] = b.v[2 * i + 1];
  return r;
}
EK_INLINE uint32_t shifted_rne(uint32_t value, uint32_t shift) {
  if (shift > 31) return 0;
  return (value + ((value >> shift) & 1) + (uint32_t{1} << (shift - 1)) - 1) >> shift;
}
EK_INLINE uint16_t f16_of(float x) {
  const uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
  uint32_t half;
  if (size > 0x7F800000)
    half = 0x7E00 | (size >> 13 & 0x3FF);  // NaN
  else if (size >= 0x477FF000)
    half = 0x7C00;  // rounds past 65504
  else if (size >= 0x38800000)
    half = shifted_rne(size - 0x38000000, 13);  // normal: exponent bias 127 to 15
  else
    half = shifted_rne((size & 0x7FFFFF) | 0x800000, 126 - (size >> 23));  // subnormal, in steps of 2^-24
  return static_cast<uint16_t>(sign | half);
}
EK_INLINE void store_f16(uint16_t* p, F32 x) {
  for (int i = 0; i < 16; ++i) p[i] = f16_of(x.v[i]);
}
EK_INLINE void store_bf16(uint16_t* p, F32 x) {
  for (int i = 0; i < 16; ++i) {
    const uint32_t bits = bits_of(x.v[i]);
    const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
    p[i] = static_cast<uint16_t>((nan ? bits | 0x400000 : bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
}
EK_INLINE F32 to_f32(I32 a) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(a.v[i]);
  return r;
}
EK_INLINE I32 rne_i32(F32 a) {
  constexpr float kMagic =
      12582912.0f;  // 1.5 * 2^23: the addition rounds to an integer, in the current (nearest even) mode
  I32 r;
  for (int i = 0; i < 16; ++i) {
    volatile float rounded = a.v[i] + kMagic;  // volatile: the compiler must not fold the two additions
    r.v[i] = static_cast<int32_t>(rounded - kMagic);
  }
  return r;
}
EK_INLINE I32 load_u8(const uint8_t* p) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = p[i];
  return r;
}
EK_INLINE I32 load_s8(const uint8_t* p) {
  I32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<int8_t>(p[i]);
  return r;
}
/// The low byte of every lane.
EK_INLINE void store_bytes(uint8_t* p, I32 x) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<uint8_t>(x.v[i]);
}
/// The low bytes of three vectors, lane by lane: 48 bytes.
EK_INLINE void store_triples(uint8_t* p, I32 a, I32 b, I32 c) {
  for (int i = 0; i < 16; ++i) {
    p[3 * i] = static_cast<uint8_t>(a.v[i]);
    p[3 * i + 1] = static_cast<uint8_t>(b.v[i]);
    p[3 * i + 2] = static_cast<uint8_t>(c.v[i]);
  }
}
EK_INLINE Line load_line(const int8_t* p) {
  Line r;
  for (int i = 0; i < 64; ++i) r.v[i] = static_cast<uint8_t>(p[i]);
  return r;
}
EK_INLINE void store_line(uint8_t* p, Line x) {
  for (int i = 0; i < 64; ++i) p[i] = x.v[i];
}
EK_INLINE Line max_u8(Line a, Line b) {
  for (int i = 0; i < 64; ++i) a.v[i] = a.v[i] > b.v[i] ? a.v[i] : b.v[i];
  return a;
}
EK_INLINE Line max_s8(Line a, Line b) {
  for (int i = 0; i < 64; ++i) a.v[i] = static_cast<int8_t>(a.v[i]) > static_cast<int8_t>(b.v[i]) ? a.v[i] : b.v[i];
  return a;
}
/// 256 bytes, by number: of(x) is table[x] for each byte of a line.
struct ByteTable {
  const uint8_t* table;
  EK_INLINE explicit ByteTable(const uint8_t* t) : table(t) {}
  EK_INLINE Line of(Line x) const {
    for (uint8_t& byte : x.v) byte = table[byte];
    return x;
  }
};
/// The four bytes of one row's k-quad, in every column's lane.
EK_INLINE Act to_act(uint32_t quad) {
  Act x;
  __builtin_memcpy(x.v, &quad, 4);
  return x;
}
EK_INLINE Act load_act(const uint8_t* p) { return to_act(load_u32(p)); }
/// x ^ 0x80 of every byte: u8 <-> s8.
EK_INLINE Act flip_act(Act a) {
  for (uint8_t& x : a.v) x ^= 0x80;
  return a;
}
/// Asks the compiler to keep x in registers rather than to load it for every use.
EK_INLINE void keep(Line&) {}
EK_INLINE void keep(I32&) {}
/// Four rows of 16 bytes, interleaved: column c of the line holds byte c of each row.
EK_INLINE Line interleave4(const uint8_t* t0, const uint8_t* t1, const uint8_t* t2, const uint8_t* t3) {
  Line r;
  for (int i = 0; i < 16; ++i)
    r.v[4 * i] = t0[i], r.v[4 * i + 1] = t1[i], r.v[4 * i + 2] = t2[i], r.v[4 * i + 3] = t3[i];
  return r;
}
EK_INLINE I32 dot(I32 acc, Act a, Line w) {
  for (int i = 0; i < 16; ++i) {
    int32_t sum = 0;
    for (int j = 0; j < 4; ++j) sum += a.v[j] * static_cast<int8_t>(w.v[4 * i + j]);
    acc.v[i] = static_cast<int32_t>(static_cast<uint32_t>(acc.v[i]) + static_cast<uint32_t>(sum));
  }
  return acc;
}
EK_INLINE I32 dot(I32 acc, Line a, Line w) {
  for (int i = 0; i < 16; ++i) {
    int32_t sum = 0;
    for (int j = 0; j < 4; ++j) sum += a.v[4 * i + j] * static_cast<int8_t>(w.v[4 * i + j]);
    acc.v[i] = static_cast<int32_t>(static_cast<uint32_t>(acc.v[i]) + static_cast<uint32_t>(sum));
  }
  return acc;
}
/// 16 float16 values; every one of them is a float32.
EK_INLINE F32 load_f16(const uint16_t* p) {
  F32 r;
  for (int i = 0; i < 16; ++i) {
    const uint32_t magnitude = p[i] & 0x7FFFu, sign = (p[i] & 0x8000u) << 16;
    // The exponent is rebiased by a product, which is exact for subnormals too; infinity and NaN keep theirs.
    const uint32_t shifted = magnitude << 13;
    float value;
    __builtin_memcpy(&value, &shifted, 4);
    value *= 0x1p112f;
    uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if (magnitude >= 0x7C00u) bits = shifted | 0x7F800000u;
    bits |= sign;
    __builtin_memcpy(&r.v[i], &bits, 4);
  }
  return r;
}
/// 16 bfloat16 values: the upper halves of float32.
EK_INLINE F32 load_bf16(const uint16_t* p) {
  F32 r;
  for (int i = 0; i < 16; ++i) r.v[i] = float_of(static_cast<uint32_t>(p[i]) << 16);
  return r;
}
EK_INLINE Quad load_quad(const int8_t* p) { return {{p[0], p[1], p[2], p[3]}}; }

}  // namespace
}  // namespace ek

#include "simd/block_identity.h"
#include "simd/simd_scalar_narrow.h"
#include "simd/tails.h"
