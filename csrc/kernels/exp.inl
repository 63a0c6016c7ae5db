// exp on 16 lanes, for what is not above zero.
//
// Method     v = n ln 2 + r, |r| <= 0.35, a polynomial of r, times 2^n in two steps. Adding 1.5 * 2^23 rounds to an
//            integer.
// Accuracy   1 unit in the last place, subnormal results included. A NaN stays one, minus infinity gives zero.
#pragma once

#include "kernels/partial.inl"

namespace ek {
namespace {

EK_INLINE F32 exp_below_zero(F32 x) {
  constexpr float kShift = 0x1.8p23f;
  constexpr float kTerms[] = {1.0f, 1.0f, 0x1.0p-1f, 0x1.55548ep-3f, 0x1.55545ep-5f, 0x1.123b52p-7f, 0x1.6db41cp-10f};
  const F32 v = max_f32(set1_f32(-104.0f), x);
  const F32 n = sub_f32(fma_f32(v, set1_f32(0x1.715476p0f), set1_f32(kShift)), set1_f32(kShift));
  const F32 r = fma_f32(n, set1_f32(0x1.05c61p-29f), fma_f32(n, set1_f32(-0x1.62e43p-1f), v));
  F32 p = set1_f32(kTerms[6]);
  unroll<6>([&](auto i) EK_LAMBDA { p = fma_f32(p, r, set1_f32(kTerms[5 - decltype(i)::value])); });
  const F32 whole = max_f32(n, set1_f32(-152.0f));  // a NaN is no integer, and stays in p
  return mul_f32(mul_f32(p, pow2_f32(add_i32(rne_i32(whole), set1_i32(64)))), set1_f32(0x1p-64f));
}

}  // namespace
}  // namespace ek
