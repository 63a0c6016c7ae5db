// GELU, its tanh form and SiLU on 16 lanes: x * Phi(x) and x / (1 + exp(-v)).
//
// Method     exp(-v) = 2^n * exp(r), r = -v - n ln 2 in [-0.35, 0.35], by a polynomial. Where v is a product, x^2 / 2
//            or the cubic of the tanh form, its leading part is built from short factors, exactly, and the rest joins
//            r: a rounded v of 100 would cost 60 units in the last place. Phi's tail is exp(-x^2 / 2) * R(|x|), R a
//            polynomial in t = 1 / (1 + 0.75 |x|) (the form of Hastings, 1955; coefficients fitted here).
// Bits       multiplications, additions and one division, each rounded, in the order written: the same on every ISA.
//            Not the exp of functions.inl, whose argument is one float where these take a sum of exact parts; and 8-bit
//            models keep the bits that they have had.
// Accuracy   at most 5 units in the last place for every float, subnormal results included (tests hold it).
// Edges      a NaN stays one, +infinity stays, what lies below the smallest result gives -0.
#pragma once

#include "kernels/partial.inl"

namespace ek {
namespace {

constexpr float kLog2E = 0x1.715476p0f;
constexpr float kLn2High = 0x1.62e4p-1f;  // 15 bits: n * kLn2High is exact
constexpr float kLn2Low = 0x1.7f7d1cp-20f;

template <int N>
EK_INLINE F32 horner(const float (&c)[N], F32 x) {
  F32 p = set1_f32(c[N - 1]);
  unroll<N - 1>([&](auto i) EK_LAMBDA { p = add_f32(mul_f32(p, x), set1_f32(c[N - 2 - decltype(i)::value])); });
  return p;
}

/// exp(r) - 1 for |r| <= 0.35.
EK_INLINE F32 exp_minus_one(F32 r) {
  constexpr float kTail[] = {0.5f, 0.1666651964187622f, 0.04166840389370918f, 0.00836889911442995f,
                             0.001381422160193324f};
  return add_f32(r, mul_f32(mul_f32(r, r), horner(kTail, r)));
}

/// n of exp(-v) = 2^n * exp(r).
EK_INLINE F32 exponent_of(F32 v) { return round_f32(mul_f32(v, set1_f32(-kLog2E))); }

/// y * 2^n for n in [-160, 0], rounded once.
EK_INLINE F32 times_pow2(F32 y, F32 n) {
  return mul_f32(mul_f32(y, pow2_f32(add_i32(rne_i32(n), set1_i32(64)))), set1_f32(0x1p-64f));
}

/// x / (1 + exp(-v)) for v of x's sign, given -|v| as n and r.
EK_INLINE F32 times_logistic(F32 x, F32 n, F32 r) {
  const F32 zero = set1_f32(0.0f), one = set1_f32(1.0f);
  const F32 p = add_f32(one, exp_minus_one(r));
  const F32 y = div_f32(select_below(x, zero, mul_f32(x, p), x), add_f32(one, times_pow2(p, n)));
  return select_below(x, zero, times_pow2(y, n), y);
}

EK_INLINE F32 silu(F32 x) {
  const F32 limit = set1_f32(110.0f);
  const F32 v = min_f32(abs_f32(x), limit), n = exponent_of(v);
  const F32 r = sub_f32(sub_f32(mul_f32(n, set1_f32(-kLn2High)), v), mul_f32(n, set1_f32(kLn2Low)));
  return times_logistic(max_f32(set1_f32(-110.0f), x), n, r);
}

/// x / (1 + exp(-v)), v = 2 sqrt(2 / pi) (x + 0.044715 x^3) = c1 x + c3 x^3: what 0.5 x (1 + tanh(v / 2)) is.
EK_INLINE F32 gelu_tanh(F32 x) {
  constexpr float kC1 = 1.595769166946411f, kC1High = 1.59576416015625f, kC1Low = 4.961449576512678e-06f;
  constexpr float kC3 = 0.07135481387376785f, kC3High = 0.07135009765625f, kC3Low = 4.718616310128709e-06f;
  const F32 a = min_f32(abs_f32(x), set1_f32(11.0f));
  const F32 h = keep_bits(a, 0xFFFF0000), l = sub_f32(a, h);  // 8 bits and the rest
  const F32 h2 = mul_f32(h, h), h3 = mul_f32(h2, h);          // exact
  const F32 k = keep_bits(h3, 0xFFFFF000);
  const F32 cubic = mul_f32(k, set1_f32(kC3High)), linear = mul_f32(h, set1_f32(kC1High));  // exact
  const F32 cut = add_f32(mul_f32(sub_f32(h3, k), set1_f32(kC3High)),
                          add_f32(mul_f32(h3, set1_f32(kC3Low)), mul_f32(h, set1_f32(kC1Low))));
  const F32 slope = add_f32(set1_f32(kC1), mul_f32(set1_f32(kC3), add_f32(mul_f32(a, add_f32(a, h)), h2)));
  const F32 low = add_f32(cut, mul_f32(l, slope));
  const F32 n = exponent_of(add_f32(add_f32(cubic, linear), low));
  const F32 reduced = sub_f32(sub_f32(mul_f32(n, set1_f32(-kLn2High)), cubic), linear);  // exact
  const F32 r = sub_f32(sub_f32(reduced, mul_f32(n, set1_f32(kLn2Low))), low);
  return times_logistic(max_f32(set1_f32(-11.0f), x), n, r);
}

EK_INLINE F32 gelu(F32 x) {
  constexpr float kR[] = {0.4437289834022522f,  0.21252022683620453f,  -0.22521738708019257f, -0.007705129217356443f,
                          0.20305131375789642f, -0.21818095445632935f, 0.05082378163933754f,  0.19981186091899872f,
                          -0.3993505537509918f, 0.35352644324302673f,  0.14156804978847504f,  -0.6876867413520813f,
                          0.48211243748664856f};
  const F32 zero = set1_f32(0.0f), one = set1_f32(1.0f), half = set1_f32(0.5f);
  const F32 a = min_f32(abs_f32(x), set1_f32(14.5f));
  const F32 t = div_f32(one, add_f32(one, mul_f32(set1_f32(0.75f), a)));
  const F32 ratio = mul_f32(t, horner(kR, sub_f32(t, half)));
  const F32 h = keep_bits(a, 0xFFFFF000);  // 12 bits
  const F32 v = mul_f32(mul_f32(h, h), half), low = mul_f32(mul_f32(sub_f32(a, h), add_f32(a, h)), half);
  const F32 n = exponent_of(v);
  const F32 reduced = sub_f32(sub_f32(mul_f32(n, set1_f32(-kLn2High)), v), mul_f32(n, set1_f32(kLn2Low)));
  const F32 tail = add_f32(ratio, mul_f32(ratio, exp_minus_one(sub_f32(reduced, low))));  // Phi(-a) is tail * 2^n
  const F32 bounded = max_f32(set1_f32(-14.5f), x);
  return select_below(x, zero, times_pow2(mul_f32(bounded, tail), n),
                      mul_f32(bounded, sub_f32(one, times_pow2(tail, n))));
}

}  // namespace
}  // namespace ek
