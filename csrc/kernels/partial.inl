// Affine maps of 8-bit values, lane by lane.
#pragma once

#include EK_SIMD_HEADER
#include "kernels/kernels.h"
#include "simd/copy_bytes.h"

namespace ek {
namespace {

EK_INLINE I32 load_bytes_n(const uint8_t* p, Sign sign, size_t n) {
  return sign == Sign::kU8 ? load_u8_n(p, n) : load_s8_n(p, n);
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
