// Loads and stores of fewer than 16 lanes, byte by byte: tails must not touch memory past their operand.
#pragma once

#include EK_SIMD_HEADER
#include "kernels/kernels.h"

namespace ek {
namespace {

EK_INLINE void copy_bytes(void* to, const void* from, size_t n) {
  uint8_t* t = static_cast<uint8_t*>(to);
  const uint8_t* f = static_cast<const uint8_t*>(from);
  for (size_t i = 0; i < n; ++i) t[i] = f[i];
}
EK_INLINE void store_bytes_n(uint8_t* p, I32 x, size_t n) {
  if (n >= kStrip) return store_bytes(p, x);
  uint8_t lanes[kStrip];
  store_bytes(lanes, x);
  copy_bytes(p, lanes, n);
}
EK_INLINE void store_i32_n(int32_t* p, I32 x, size_t n) {
  if (n >= kStrip) return store_i32(p, x);
  int32_t lanes[kStrip];
  store_i32(lanes, x);
  copy_bytes(p, lanes, n * sizeof(int32_t));
}
EK_INLINE void store_f32_n(float* p, F32 x, size_t n) {
  if (n >= kStrip) return store_f32(p, x);
  float lanes[kStrip];
  store_f32(lanes, x);
  copy_bytes(p, lanes, n * sizeof(float));
}
EK_INLINE F32 load_f32_n(const float* p, size_t n) {
  if (n >= kStrip) return load_f32(p);
  float lanes[kStrip] = {};
  copy_bytes(lanes, p, n * sizeof(float));
  return load_f32(lanes);
}
EK_INLINE I32 load_bytes(const uint8_t* p, Sign sign) { return sign == Sign::kU8 ? load_u8(p) : load_s8(p); }
EK_INLINE I32 load_bytes_n(const uint8_t* p, Sign sign, size_t n) {
  if (n >= kStrip) return load_bytes(p, sign);
  uint8_t lanes[kStrip] = {};
  copy_bytes(lanes, p, n);
  return load_bytes(lanes, sign);
}

EK_INLINE F32 clamp(F32 x, F32 lo, F32 hi) { return min_f32(max_f32(x, lo), hi); }

/// float(q - zero_point) * scale
EK_INLINE F32 dequantize_lanes(I32 q, const QuantParams& map) {
  return mul_f32(to_f32(add_i32(q, set1_i32(-map.zero_point))), set1_f32(map.scale));
}
/// rne(clamp(x / scale)) + zero_point
EK_INLINE I32 quantize_lanes(F32 x, const QuantParams& map, F32 lo, F32 hi) {
  return add_i32(rne_i32(clamp(div_f32(x, set1_f32(map.scale)), lo, hi)), set1_i32(map.zero_point));
}

}  // namespace
}  // namespace ek
