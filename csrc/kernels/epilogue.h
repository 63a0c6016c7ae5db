// What happens to accumulators on their way to C, and the types of what comes out.
#pragma once

#include <cstddef>
#include <cstdint>

#include "simd/sign.h"

namespace ek {

inline constexpr size_t kStrip = 16;  // columns in one vector of accumulators, on every ISA

/// Type of C. kQuantized is 8-bit by a multiplier, straight from the accumulator; kRealQuantized is 8-bit from the real
/// result, and takes what the float kinds take.
enum class OutKind : uint8_t { kInt32, kQuantized, kFloat32, kFloat16, kBfloat16, kRealQuantized };

/// kSwiglu takes columns in pairs, a gate and what it gates: C has half as many columns.
enum class Activation : uint8_t { kClamp, kGelu, kGeluTanh, kSilu, kSwiglu };

/// Affine map of an 8-bit tensor: real = (q - zero_point) * scale.
struct QuantParams {
  float scale = 1.0f;
  int32_t zero_point = 0;
  Sign sign = Sign::kU8;
};

/// What happens between accumulate and store, in registers.
///   kInt32      C = acc
///   kQuantized  q = rne(clamp(float(acc) * multiplier[n], lo - zp, hi - zp)) + zp
///               with a residual r:  q = quantize(dequantize(q) + dequantize(r))          (the graph has Q/DQ between)
///   kFloat32    y = activation(float(acc) * (row_scale[m] * multiplier[n]) + bias[n]) + addend[m, n], a NaN stays one;
///               where the addend comes first, the activation takes the sum with it
///   others      the same y, rounded to the type of C once (quantized as `out` says)
struct Epilogue {
  OutKind kind = OutKind::kInt32;
  const float* multiplier = nullptr;  // [n], padded to a multiple of kStrip
  QuantParams out;                    // kQuantized: zero point and sign of q; scale is used with a residual only
  float lo = 0, hi = 0;               // kQuantized: clamp relative to the zero point; the real kinds: kClamp
  const float* bias = nullptr;        // real kinds; [n]; may be null
  const float* row_scale = nullptr;   // real kinds; [m]; may be null (1.0)
  // Real kinds: rows with zero points, whose acc is less row_zero[m] * column_sum[n] first, mod 2^32. Or both null.
  const int32_t* row_zero = nullptr;    // [m]
  const int32_t* column_sum = nullptr;  // [n], padded to a multiple of kStrip
  // Residual, kQuantized only: one more 8-bit tensor of C's shape, its map, and the map of the sum.
  const uint8_t* residual = nullptr;
  size_t residual_ld = 0;  // bytes from row to row
  QuantParams residual_q, sum_q;
  float sum_lo = 0, sum_hi = 0;
  // Real kinds.
  Activation activation = Activation::kClamp;
  const float* addend = nullptr;  // of C's shape; may be null
  size_t addend_ld = 0;           // floats from row to row
  bool addend_first = false;      // not with kSwiglu
};

/// Columns of C that the first `columns` accumulators of a row become, and the bytes they take.
inline size_t out_columns(const Epilogue& e, size_t columns) {
  return e.activation == Activation::kSwiglu ? columns / 2 : columns;
}
inline size_t out_bytes(const Epilogue& e, size_t columns) {
  const size_t item = e.kind == OutKind::kQuantized || e.kind == OutKind::kRealQuantized ? 1
                      : e.kind == OutKind::kFloat16 || e.kind == OutKind::kBfloat16      ? 2
                                                                                         : 4;
  return out_columns(e, columns) * item;
}

}  // namespace ek
