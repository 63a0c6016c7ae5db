// Affine maps of 8-bit values, lane by lane.
#pragma once

#include EK_SIMD_HEADER
#include "kernels/elementwise.h"
#include "simd/copy_bytes.h"

namespace ek {
namespace {

EK_INLINE I32 load_bytes_n(const uint8_t* p, Sign sign, size_t n) {
  return sign == Sign::kU8 ? load_u8_n(p, n) : load_s8_n(p, n);
}

/// For values that become integers: a NaN gives lo.
EK_INLINE F32 clamp(F32 x, F32 lo, F32 hi) { return min_f32(max_f32(x, lo), hi); }
/// For values that stay real: a NaN stays one.
EK_INLINE F32 clamp_real(F32 x, F32 lo, F32 hi) { return min_f32(hi, max_f32(lo, x)); }

/// float(q - zero_point) * scale
EK_INLINE F32 dequantize_lanes(I32 q, const QuantParams& map) {
  return mul_f32(to_f32(add_i32(q, set1_i32(-map.zero_point))), set1_f32(map.scale));
}
/// x / scale where it matters: a float that rounds to the same integer as the quotient does. The product with the
/// reciprocal is a few units off in the last place, which changes the integer only near a tie; there, and where the
/// reciprocal is no normal number, the block is divided. For quotients that a clamp holds to |q| <= 256.
struct Quotient {
  F32 scale, inverse, tie;

  EK_INLINE explicit Quotient(float divisor) : scale(set1_f32(divisor)), inverse(set1_f32(1.0f / divisor)) {
    const bool normal = divisor > 0x1p-100f && divisor < 0x1p100f;
    tie = set1_f32(normal ? 0.5f - 0x1p-14f : -1.0f);  // 3 roundings of 2^-24 each, times 256, are below 2^-14
  }

  template <int S>
  EK_INLINE void operator()(F32 (&x)[S]) const {
    F32 fast[S], nearest = set1_f32(0.0f);  // nearest to a tie; the NaN of a NaN or an infinity does not count
    unroll<S>([&](auto s) EK_LAMBDA {
      fast[s.value] = mul_f32(x[s.value], inverse);
      nearest = max_size_f32(fraction_f32(fast[s.value]), nearest);
    });
    if (all_below(nearest, tie)) {
      unroll<S>([&](auto s) EK_LAMBDA { x[s.value] = fast[s.value]; });
    } else {
      unroll<S>([&](auto s) EK_LAMBDA { x[s.value] = div_f32(x[s.value], scale); });
    }
  }
};

/// What a row of activations is quantized by: scale = max|x| / 127, q = rne(x * (127 / max|x|)). Both quotients can be
/// under way at once, and |q| <= 127 for every x of a finite row. Beside an infinity every finite x becomes 0, and the
/// infinity, of scale infinity, what its sign is clamped to.
struct RowScale {
  float scale, inverse;

  /// Of a row whose largest |x| is `peak`, in so many steps; one that is next to nothing becomes zeros.
  EK_INLINE explicit RowScale(float peak, float steps = 127.0f) : scale(peak / steps), inverse(steps / peak) {
    if (peak < 0x1p-110f) scale = inverse = 1.0f;
    if (!finite()) inverse = 0x1p-149f;  // infinity times 0 would be a NaN, and the sign lost
  }

  EK_INLINE bool finite() const { return scale < __builtin_inff(); }

  template <int S>
  EK_INLINE void operator()(F32 (&x)[S]) const {
    unroll<S>([&](auto s) EK_LAMBDA { x[s.value] = mul_f32(x[s.value], set1_f32(inverse)); });
  }
};

/// y = rne(clamp(scaled(x))) + zero_point over a run, where load(i, n) gives lanes i to i + n of x.
template <typename Scaled, typename Load>
EK_INLINE void quantize_run(size_t n, const Scaled& scaled, const ByteStore& bytes, uint8_t* y, Load&& load) {
  size_t i = 0;
  for (; i + kStrip < n; i += 64) {
    const size_t left = n - i;
    F32 x[4];
    if (left >= 64) {
      unroll<4>([&](auto s) EK_LAMBDA { x[s.value] = load(i + s.value * kStrip, kStrip); });
    } else {
      unroll<4>([&](auto s) EK_LAMBDA {
        constexpr size_t at = decltype(s)::value * kStrip;
        x[s.value] = load(i + at, left > at ? left - at : 0);
      });
    }
    scaled(x);
    bytes.store(y + i, x, left);
  }
  if (i < n) {
    F32 x[1] = {load(i, n - i)};
    scaled(x);
    bytes.store(y + i, x, n - i);
  }
}

}  // namespace
}  // namespace ek
