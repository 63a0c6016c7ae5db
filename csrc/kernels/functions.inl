// Exponential, logarithm and what follows from them, on 16 lanes: one definition each.
//
// Method     exp: x = n ln 2 + r, |r| <= 0.35, a polynomial of r, times 2^n in two steps. log: x = 2^e * m, m within
//            [sqrt(1/2), sqrt(2)), a polynomial of m - 1. tanh: x times a quotient of polynomials of x^2. sigmoid and
//            softplus by an exponential. erf: below 0.92 an odd polynomial, above it 1 - exp(-a - a Q(a)). Coefficients
//            are minimax ones, fitted here.
// Bits       multiplications, additions, fused multiply-adds and divisions in the order written: the same on every ISA.
// Accuracy   exp and log 1, erf and softplus 2, sigmoid 3, tanh 5 units in the last place, for every float, subnormal
//            results included but for sigmoid's, which may be 0 (tests/test_map.py holds them).
// Edges      a NaN stays one; infinities and zeros give the limits, with their sign.
#pragma once

#include "kernels/partial.inl"

namespace ek {
namespace {

constexpr float kInvLn2 = 0x1.715476p0f;
constexpr float kLn2 = 0x1.62e43p-1f, kLn2Rest = -0x1.05c61p-29f;  // their sum is ln 2
constexpr float kTanhEnd = 9.02f;                                  // from there on it is 1

/// c[0] + c[1] x + ..., fused.
template <int N>
EK_INLINE F32 fused_horner(const float (&c)[N], F32 x) {
  F32 p = set1_f32(c[N - 1]);
  unroll<N - 1>([&](auto i) EK_LAMBDA { p = fma_f32(p, x, set1_f32(c[N - 2 - decltype(i)::value])); });
  return p;
}

EK_INLINE F32 size_f32(F32 x) { return keep_bits(x, 0x7FFFFFFF); }
/// Of a size, with the sign of another.
EK_INLINE F32 with_sign(F32 size, F32 sign) {
  return as_f32(add_i32(bits_i32(size), bits_i32(keep_bits(sign, 0x80000000))));
}
/// x held under a limit; a NaN stays one.
EK_INLINE F32 at_most(F32 x, float limit) { return min_f32(set1_f32(limit), x); }

EK_INLINE F32 negative_f32(F32 x) { return as_f32(add_i32(bits_i32(x), set1_i32(static_cast<int32_t>(0x80000000)))); }

/// v as n ln 2 + r. Adding `kShift` rounds to an integer, which the lowest bits hold then. A NaN stays in r.
struct Powers {
  static constexpr float kShift = 0x1.8p23f;
  I32 n;
  F32 r;

  EK_INLINE explicit Powers(F32 v) {
    const F32 shifted = fma_f32(v, set1_f32(kInvLn2), set1_f32(kShift)), whole = sub_f32(shifted, set1_f32(kShift));
    n = bits_i32(shifted);
    r = fma_f32(whole, set1_f32(-kLn2Rest), fma_f32(whole, set1_f32(-kLn2), v));
  }
  /// exp(r)
  EK_INLINE F32 near_one() const {
    constexpr float kTail[] = {1.0f, 1.0f, 0x1.0p-1f, 0x1.55548ep-3f, 0x1.55545ep-5f, 0x1.123b52p-7f, 0x1.6db41cp-10f};
    return fused_horner(kTail, r);
  }
};
/// 2^(n + more), of an integer in the lowest bits.
EK_INLINE F32 pow2_of(I32 n, int32_t more) { return as_f32(add_i32(shift_left<23>(n), set1_i32((127 + more) << 23))); }

/// Beyond the limits nothing changes: infinity, and 0.
EK_INLINE F32 exp_f32(F32 x) {
  const F32 v = max_f32(set1_f32(-104.0f), at_most(x, 89.0f));
  const Powers e(v);
  const I32 half = bits_i32(fma_f32(v, set1_f32(0.5f * kInvLn2), set1_f32(Powers::kShift)));  // 2^n may be no float
  return mul_f32(mul_f32(e.near_one(), pow2_of(half, 0)), pow2_of(sub_i32(e.n, half), 0));
}

/// The same bits for what is not above 0, sooner.
EK_INLINE F32 exp_below_zero(F32 x) {
  const Powers e(max_f32(set1_f32(-104.0f), x));
  return mul_f32(mul_f32(e.near_one(), pow2_of(e.n, 64)), set1_f32(0x1p-64f));
}

/// e ln 2 + log(1 + f) for f in [-0.293, 0.415].
EK_INLINE F32 log_from(F32 f, F32 e) {
  constexpr float kTail[] = {0x1.555548p-2f,  -0x1.000006p-2f, 0x1.99a4b6p-3f,  -0x1.555c4cp-3f, 0x1.233764p-3f,
                             -0x1.fc2216p-4f, 0x1.e6f0b6p-4f,  -0x1.de3bd6p-4f, 0x1.1456bap-4f};
  const F32 square = mul_f32(f, f);
  const F32 low = fma_f32(mul_f32(f, fused_horner(kTail, f)), square, mul_f32(square, set1_f32(-0.5f)));
  return fma_f32(e, set1_f32(kLn2), add_f32(f, fma_f32(e, set1_f32(kLn2Rest), low)));
}

EK_INLINE F32 log_f32(F32 x) {
  const F32 zero = set1_f32(0.0f), least = set1_f32(0x1p-126f), infinity = set1_f32(__builtin_inff());
  const I32 bits = bits_i32(select_below(x, least, mul_f32(x, set1_f32(0x1p23f)), x));
  const I32 above = add_i32(bits, set1_i32(-0x3F3504F3));  // less the bits of sqrt(1/2)
  const F32 e = add_f32(to_f32(shift_right<23>(above)), select_below(x, least, set1_f32(-23.0f), zero));
  const F32 m = as_f32(sub_i32(bits, bits_i32(keep_bits(as_f32(above), 0xFF800000))));
  const F32 y = select_below(x, infinity, log_from(sub_f32(m, set1_f32(1.0f)), e), x);
  return select_equal(x, zero, set1_f32(-__builtin_inff()), select_below(x, zero, set1_f32(__builtin_nanf("")), y));
}

EK_INLINE F32 exp_of_minus_size(F32 x) { return exp_below_zero(sub_f32(set1_f32(0.0f), size_f32(x))); }

/// exp(-x) is infinite from 2^127.5 on.
EK_INLINE F32 sigmoid_f32(F32 x) {
  const F32 one = set1_f32(1.0f);
  const Powers e(max_f32(set1_f32(-87.0f), at_most(negative_f32(x), 89.0f)));
  return div_f32(one, add_f32(one, mul_f32(e.near_one(), pow2_of(e.n, 0))));
}

EK_INLINE F32 tanh_f32(F32 x) {
  constexpr float kAbove[] = {1.0f, 0x1.1832ap-3f, 0x1.fb4aap-9f, 0x1.d689a6p-16f, 0x1.07787p-25f, -0x1.af7148p-37f};
  constexpr float kBelow[] = {1.0f, 0x1.e16ea4p-2f, 0x1.be844cp-6f, 0x1.9d5bf2p-12f, 0x1.5a4794p-20f};
  const F32 v = max_f32(set1_f32(-kTanhEnd), at_most(x, kTanhEnd)), square = mul_f32(v, v);
  const F32 y = div_f32(mul_f32(v, fused_horner(kAbove, square)), fused_horner(kBelow, square));
  return max_f32(set1_f32(-1.0f), at_most(y, 1.0f));
}

EK_INLINE F32 erf_f32(F32 x) {
  constexpr float kSmall[] = {0x1.06eba6p-3f,  -0x1.8126dcp-2f, 0x1.ce1904p-4f,
                              -0x1.b676c8p-6f, 0x1.46c22ep-8f,  -0x1.3825b2p-11f};
  constexpr float kLarge[] = {0x1.07328cp-3f,  0x1.457cdep-1f, 0x1.af271ep-4f,
                              -0x1.7707aep-6f, 0x1.a56494p-9f, -0x1.c0c37ap-13f};
  const F32 size = size_f32(x), a = at_most(size, 4.0f);  // from there on it is 1
  const F32 small = fma_f32(fused_horner(kSmall, mul_f32(size, size)), size, size);
  const F32 exponent = fma_f32(fused_horner(kLarge, a), a, a);
  const F32 large = sub_f32(set1_f32(1.0f), exp_below_zero(sub_f32(set1_f32(0.0f), exponent)));
  return with_sign(select_below(size, set1_f32(0.92f), small, large), x);
}

/// max(x, 0) + log(1 + exp(-|x|))
EK_INLINE F32 softplus_f32(F32 x) {
  const F32 zero = set1_f32(0.0f), one = set1_f32(1.0f), e = exp_of_minus_size(x), bound = set1_f32(0.4142f);
  const F32 halved = mul_f32(sub_f32(e, one), set1_f32(0.5f));  // 1 + e is 2 (1 + halved)
  const F32 log = log_from(select_below(e, bound, e, halved), select_below(e, bound, zero, one));
  return add_f32(max_f32(zero, x), log);
}

}  // namespace
}  // namespace ek
