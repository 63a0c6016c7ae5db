// Fewer than 16 lanes, and rounded bytes of several vectors: the plain forms, for ISAs that have no better one.
// Included by the simd headers after their own vectors. Tails go byte by byte: they must not touch memory past their
// operand.
#pragma once

#include "simd/copy_bytes.h"

namespace ek {
namespace {

EK_INLINE void store_bytes_n(uint8_t* p, I32 x, size_t n) {
  if (n >= 16) return store_bytes(p, x);
  uint8_t lanes[16];
  store_bytes(lanes, x);
  copy_bytes(p, lanes, n);
}
EK_INLINE void store_biased(uint8_t* p, const I32 (&x)[4], Sign sign, size_t n) {
  const I32 bias = set1_i32(sign == Sign::kS8 ? -128 : 0);
  unroll<4>([&](auto s) EK_LAMBDA {
    constexpr size_t at = decltype(s)::value * 16;
    if (n > at) store_bytes_n(p + at, add_i32(x[s.value], bias), n - at);
  });
}
EK_INLINE void store_i32_n(int32_t* p, I32 x, size_t n) {
  if (n >= 16) return store_i32(p, x);
  int32_t lanes[16];
  store_i32(lanes, x);
  copy_bytes(p, lanes, n * sizeof(int32_t));
}
#ifndef EK_SIMD_F32_TAILS
EK_INLINE void store_f32_n(float* p, F32 x, size_t n) {
  if (n >= 16) return store_f32(p, x);
  float lanes[16];
  store_f32(lanes, x);
  copy_bytes(p, lanes, n * sizeof(float));
}
EK_INLINE F32 load_f32_n(const float* p, size_t n) {
  if (n >= 16) return load_f32(p);
  float lanes[16] = {};
  copy_bytes(lanes, p, n * sizeof(float));
  return load_f32(lanes);
}
#endif
EK_INLINE void store_f16_n(uint16_t* p, F32 x, size_t n) {
  if (n >= 16) return store_f16(p, x);
  uint16_t lanes[16];
  store_f16(lanes, x);
  copy_bytes(p, lanes, n * sizeof(uint16_t));
}
EK_INLINE void store_bf16_n(uint16_t* p, F32 x, size_t n) {
  if (n >= 16) return store_bf16(p, x);
  uint16_t lanes[16];
  store_bf16(lanes, x);
  copy_bytes(p, lanes, n * sizeof(uint16_t));
}
EK_INLINE I32 load_i32_n(const int32_t* p, size_t n) {
  if (n >= 16) return load_i32(p);
  int32_t lanes[16] = {};
  copy_bytes(lanes, p, n * sizeof(int32_t));
  return load_i32(lanes);
}
EK_INLINE I32 load_u8_n(const uint8_t* p, size_t n) {
  if (n >= 16) return load_u8(p);
  uint8_t lanes[16] = {};
  copy_bytes(lanes, p, n);
  return load_u8(lanes);
}
EK_INLINE I32 load_s8_n(const uint8_t* p, size_t n) {
  if (n >= 16) return load_s8(p);
  uint8_t lanes[16] = {};
  copy_bytes(lanes, p, n);
  return load_s8(lanes);
}

/// Turns floats into bytes: rne(clamp(x, lo, hi)) + zero_point, where lo and hi keep the sum inside `sign`'s range.
/// A NaN gives lo. `fits` promises that every x is below 2^31, which saves some ISAs work.
struct ByteStore {
  F32 lo, hi;
  I32 zero_point;

  static constexpr bool kStoresRows = false;

  EK_INLINE ByteStore(float low, float high, int32_t zero, Sign, bool /*fits*/ = false)
      : lo(set1_f32(low)), hi(set1_f32(high)), zero_point(set1_i32(zero)) {}

  /// The same promise, found out: every x is an int32, as a float, times one of these.
  template <int S>
  EK_INLINE void expect(const F32 (&)[S]) {}
  /// Four vectors in block order, to 64 bytes in natural order.
  EK_INLINE void store_block(uint8_t* p, const F32 (&x)[4]) const { store(p, x, 64); }
  /// The first n bytes of S vectors.
  template <int S>
  EK_INLINE void store(uint8_t* p, const F32 (&x)[S], size_t n) const {
    unroll<S>([&](auto s) EK_LAMBDA {
      constexpr size_t at = decltype(s)::value * 16;
      const I32 q = add_i32(rne_i32(min_f32(max_f32(x[s.value], lo), hi)), zero_point);
      if (n > at) store_bytes_n(p + at, q, n - at);
    });
  }
};

}  // namespace
}  // namespace ek
