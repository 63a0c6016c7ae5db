// exp on 16 lanes, for what is not above zero: 2^n * exp(r), as activations.inl has it.
//
// Accuracy   2 units in the last place, subnormal results included. A NaN stays one, minus infinity gives zero.
#pragma once

#include "kernels/activations.inl"

namespace ek {
namespace {

EK_INLINE F32 exp_below_zero(F32 x) {
  const F32 v = max_f32(set1_f32(-110.0f), x), n = round_f32(mul_f32(v, set1_f32(kLog2E)));
  const F32 r = sub_f32(sub_f32(v, mul_f32(n, set1_f32(kLn2High))), mul_f32(n, set1_f32(kLn2Low)));
  return times_pow2(add_f32(set1_f32(1.0f), exp_minus_one(r)), n);
}

}  // namespace
}  // namespace ek
