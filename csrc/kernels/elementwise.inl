// Element-wise kernels. Plain loops where the compiler's vectors are as good as ours; integer work has one result
// anyway.
#pragma once

#include "kernels/partial.inl"

namespace ek {
namespace {

struct Bounds {
  float lo, hi;
};
EK_INLINE Bounds bounds_of(const QuantParams& q) {
  const int32_t lo = q.sign == Sign::kU8 ? 0 : -128;
  return {static_cast<float>(lo - q.zero_point), static_cast<float>(lo + 255 - q.zero_point)};
}

void flip_sign(const uint8_t* x, size_t n, uint8_t* y) {
  for (size_t i = 0; i < n; ++i) y[i] = static_cast<uint8_t>(x[i] ^ 0x80u);
}

void quantize(const float* x, size_t n, QuantParams q, uint8_t* y) {
  const Bounds bounds = bounds_of(q);
  const F32 lo = set1_f32(bounds.lo), hi = set1_f32(bounds.hi);
  for (size_t i = 0; i < n; i += kStrip) {
    store_bytes_n(y + i, quantize_lanes(load_f32_n(x + i, n - i), q, lo, hi), n - i);
  }
}

void dequantize(const uint8_t* x, size_t n, QuantParams q, float* y) {
  for (size_t i = 0; i < n; i += kStrip)
    store_f32_n(y + i, dequantize_lanes(load_bytes_n(x + i, q.sign, n - i), q), n - i);
}

void max_abs(const float* x, size_t n, float* result) {
  F32 best = set1_f32(0.0f);
  for (size_t i = 0; i < n; i += kStrip) best = max_f32(abs_f32(load_f32_n(x + i, n - i)), best);
  float lanes[kStrip];
  store_f32(lanes, best);
  float m = 0.0f;
  for (size_t i = 0; i < kStrip; ++i) m = lanes[i] > m ? lanes[i] : m;
  *result = m;
}

void add(const uint8_t* a, QuantParams qa, const uint8_t* b, QuantParams qb, size_t n, QuantParams qy, float lo,
         float hi, uint8_t* y) {
  const F32 low = set1_f32(lo), high = set1_f32(hi);
  for (size_t i = 0; i < n; i += kStrip) {
    const F32 sum = add_f32(dequantize_lanes(load_bytes_n(a + i, qa.sign, n - i), qa),
                            dequantize_lanes(load_bytes_n(b + i, qb.sign, n - i), qb));
    store_bytes_n(y + i, quantize_lanes(sum, qy, low, high), n - i);
  }
}

void lookup(const uint8_t* x, size_t n, const uint8_t* table, uint8_t* y) {
  for (size_t i = 0; i < n; ++i) y[i] = table[x[i]];
}

void sum_rows(const uint8_t* const* rows, size_t num_rows, size_t channels, Sign sign, int32_t* acc) {
  for (size_t c = 0; c < channels; c += kStrip) {
    const size_t n = channels - c;
    I32 sum = set1_i32(0);
    for (size_t r = 0; r < num_rows; ++r) sum = add_i32(sum, load_bytes_n(rows[r] + c, sign, n));
    store_i32_n(acc + c, sum, n);
  }
}

void max_rows(const uint8_t* const* rows, size_t num_rows, size_t channels, Sign sign, uint8_t* y) {
  // s8 compares as u8 once its sign bit is flipped.
  const uint8_t flip = sign == Sign::kU8 ? 0 : 0x80;
  for (size_t c = 0; c < channels; ++c) y[c] = static_cast<uint8_t>(rows[0][c] ^ flip);
  for (size_t r = 1; r < num_rows; ++r) {
    const uint8_t* x = rows[r];
    for (size_t c = 0; c < channels; ++c) {
      const uint8_t v = static_cast<uint8_t>(x[c] ^ flip);
      y[c] = y[c] > v ? y[c] : v;
    }
  }
  for (size_t c = 0; c < channels; ++c) y[c] = static_cast<uint8_t>(y[c] ^ flip);
}

void requantize(const int32_t* acc, size_t n, float multiplier, float lo, float hi, int32_t zero_point, uint8_t* y) {
  const F32 m = set1_f32(multiplier), low = set1_f32(lo), high = set1_f32(hi);
  for (size_t i = 0; i < n; i += kStrip) {
    int32_t lanes[kStrip] = {};
    copy_bytes(lanes, acc + i, (n - i < kStrip ? n - i : kStrip) * sizeof(int32_t));
    const I32 q = rne_i32(clamp(mul_f32(to_f32(load_i32(lanes)), m), low, high));
    store_bytes_n(y + i, add_i32(q, set1_i32(zero_point)), n - i);
  }
}

}  // namespace
}  // namespace ek
