// Functions that models seldom ask for, value by value in double: sine and its kin, their inverses, hyperbolic sine and
// cosine, powers, and remainders.
//
// Method     series whose first neglected term is below 2^-40 of the sum, after a reduction that is exact to more bits
//            than double has. Arguments of sine and its kin beyond 2^20 meet the bits of 2/pi that matter to them.
// Bits       double additions, multiplications, divisions and roots in the order written; the result is rounded to
// float
//            once. Remainders are exact.
// Accuracy   1 unit in the last place, for every float.
// Edges      those of C: powers of 0, 1 and infinity, NaN outside of a domain.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "simd/unroll.h"

namespace ek {
namespace {

constexpr float kNanF32 = __builtin_nanf(""), kInfinityF32 = __builtin_inff();

EK_INLINE uint64_t bits_of_f64(double x) {
  uint64_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
EK_INLINE double f64_of(uint64_t bits) {
  double x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
EK_INLINE uint32_t bits_of_f32(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  return bits;
}
EK_INLINE float f32_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof x);
  return x;
}
EK_INLINE float size_of_f32(float x) { return f32_of(bits_of_f32(x) & 0x7FFFFFFF); }

template <int N>
EK_INLINE double series(const double (&c)[N], double x) {
  double p = c[N - 1];
  for (int i = N - 2; i >= 0; --i) p = p * x + c[i];
  return p;
}

constexpr double kHalfPi = 0x1.921fb54442d18p+0, kTwoOverPi = 0x1.45f306dc9c883p-1;
constexpr double kHalfPiHigh = 0x1.921fb544p+0, kHalfPiRest = 0x1.0b4611a626331p-34;
constexpr double kRound = 0x1.8p52;  // adding it rounds to an integer and leaves that in the lowest bits

/// x = quadrant * pi / 2 + r, |r| <= pi / 4 and a bit. Of a NaN or an infinity r is a NaN.
struct Angle {
  double r;
  uint32_t quadrant;

  explicit Angle(float x) {
    const double wide = static_cast<double>(x);
    const float size = size_of_f32(x);
    if (size < 0x1p20f) {
      const double shifted = wide * kTwoOverPi + kRound, n = shifted - kRound;
      r = (wide - n * kHalfPiHigh) - n * kHalfPiRest;
      quadrant = static_cast<uint32_t>(bits_of_f64(shifted));
    } else if (size < kInfinityF32) {
      // 64 bits of mantissa * 2 / pi, those below multiples of 4; 2 / pi has one word from each of its bytes on.
      static const uint32_t kWords[24] = {0x000000A2, 0x0000A2F9, 0x00A2F983, 0xA2F9836E, 0xF9836E4E, 0x836E4E44,
                                          0x6E4E4415, 0x4E441529, 0x441529FC, 0x1529FC27, 0x29FC2757, 0xFC2757D1,
                                          0x2757D1F5, 0x57D1F534, 0xD1F534DD, 0xF534DDC0, 0x34DDC0DB, 0xDDC0DB62,
                                          0xC0DB6295, 0xDB629599, 0x6295993C, 0x95993C43, 0x993C4390, 0x3C439041};
      const uint32_t bits = bits_of_f32(x), place = bits >> 26 & 15;
      const uint32_t mantissa = ((bits & 0x7FFFFF) | 0x800000) << (bits >> 23 & 7);
      const uint32_t high = mantissa * kWords[place];
      const uint64_t middle = uint64_t{mantissa} * kWords[place + 4];
      const uint64_t low = uint64_t{mantissa} * kWords[place + 8];
      const uint64_t product = (low >> 32 | uint64_t{high} << 32) + middle;
      const uint64_t n = (product + (uint64_t{1} << 61)) >> 62;
      r = static_cast<double>(static_cast<int64_t>(product - (n << 62))) * 0x1.921fb54442d18p-62;
      quadrant = static_cast<uint32_t>(n);
      if (x < 0) r = -r, quadrant = 0u - quadrant;
    } else {
      r = wide - wide;
      quadrant = 0;
    }
  }
};

EK_INLINE double sine_of(double r) {
  constexpr double c[] = {-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800.0};
  const double square = r * r;
  return r + r * (square * series(c, square));
}
EK_INLINE double cosine_of(double r) {
  constexpr double c[] = {-1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600};
  const double square = r * r;
  return 1.0 + square * series(c, square);
}
/// sin(x + quarters * pi / 2)
EK_INLINE float sine_lane(const Angle& a, uint32_t quarters) {
  const uint32_t quadrant = a.quadrant + quarters;
  const double y = (quadrant & 1) != 0 ? cosine_of(a.r) : sine_of(a.r);
  return static_cast<float>((quadrant & 2) != 0 ? -y : y);
}
/// Of lanes as MapSource has them. Those below 2^20 in a loop that the compiler turns into vectors; others once more.
EK_INLINE void sines(const float* x, size_t walk, size_t n, uint64_t quarters, float* y) {
  constexpr size_t kTogether = 64;
  for (size_t first = 0; first < n; first += kTogether) {
    const size_t count = n - first < kTogether ? n - first : kTogether;
    float from[kTogether] = {}, to[kTogether];
    for (size_t i = 0; i < count; ++i) from[i] = x[(first + i) & walk];
    uint32_t large = 0;
    for (size_t i = 0; i < kTogether; ++i) {
      const double wide = static_cast<double>(from[i]);
      const double shifted = wide * kTwoOverPi + kRound, whole = shifted - kRound;
      const double r = (wide - whole * kHalfPiHigh) - whole * kHalfPiRest;
      const uint64_t quadrant = bits_of_f64(shifted) + quarters;
      const double sine = sine_of(r), cosine = cosine_of(r);
      const uint64_t mask = 0 - (quadrant & 1);  // without a branch
      const uint64_t chosen = (bits_of_f64(cosine) & mask) | (bits_of_f64(sine) & ~mask);
      to[i] = static_cast<float>(f64_of(chosen ^ (quadrant >> 1 << 63)));
      large |= 0x497FFFFF - (bits_of_f32(from[i]) & 0x7FFFFFFF);  // below 0 from 2^20 on
    }
    for (size_t i = 0; large >> 31 != 0 && i < count; ++i) {
      if (!(size_of_f32(from[i]) < 0x1p20f)) to[i] = sine_lane(Angle(from[i]), static_cast<uint32_t>(quarters));
    }
    for (size_t i = 0; i < count; ++i) y[first + i] = to[i];
  }
}
EK_INLINE float tan_lane(float x) {
  const Angle a(x);
  const double sine = sine_of(a.r), cosine = cosine_of(a.r);
  return static_cast<float>((a.quadrant & 1) != 0 ? -cosine / sine : sine / cosine);
}

/// Of a number that is not negative, infinity included.
EK_INLINE double atan_of(double x) {
  constexpr double c[] = {-1.0 / 3, 1.0 / 5,   -1.0 / 7, 1.0 / 9,   -1.0 / 11, 1.0 / 13, -1.0 / 15,
                          1.0 / 17, -1.0 / 19, 1.0 / 21, -1.0 / 23, 1.0 / 25,  -1.0 / 27};
  const double inner = x > 1.0 ? 1.0 / x : x;
  const bool turned = inner > 0.41421356;
  const double u = turned ? (inner - 1.0) / (inner + 1.0) : inner;
  const double square = u * u, part = u + u * (square * series(c, square));
  const double angle = turned ? 0x1.921fb54442d18p-1 + part : part;
  return x > 1.0 ? kHalfPi - angle : angle;
}
EK_INLINE float atan_lane(float x) {
  const auto y = static_cast<float>(atan_of(static_cast<double>(size_of_f32(x))));
  return f32_of(bits_of_f32(y) | (bits_of_f32(x) & 0x80000000));
}
EK_INLINE float asin_lane(float x) {
  const double a = static_cast<double>(size_of_f32(x));
  const auto y = static_cast<float>(atan_of(a / __builtin_sqrt((1.0 - a) * (1.0 + a))));
  return f32_of(bits_of_f32(y) | (bits_of_f32(x) & 0x80000000));
}
EK_INLINE float acos_lane(float x) {
  const double wide = static_cast<double>(x);
  return static_cast<float>(2.0 * atan_of(__builtin_sqrt((1.0 - wide) / (1.0 + wide))));
}

/// exp of what lies between -700 and 700; a NaN stays one.
EK_INLINE double exp_f64(double x) {
  constexpr double c[] = {1.0 / 2,    1.0 / 6,     1.0 / 24,     1.0 / 120,     1.0 / 720,
                          1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800};
  const double shifted = x * 0x1.71547652b82fep+0 + kRound, n = shifted - kRound;
  const double r = (x - n * 0x1.62e42fefp-1) - n * 0x1.473de6af278edp-34;
  const double y = 1.0 + (r + r * r * series(c, r));
  return y * f64_of((bits_of_f64(shifted) + 1023) << 52);
}
EK_INLINE double held_within(double x, double limit) { return x > limit ? limit : x < -limit ? -limit : x; }

EK_INLINE float sinh_lane(float x) {
  constexpr double c[] = {1.0 / 6, 1.0 / 120, 1.0 / 5040, 1.0 / 362880, 1.0 / 39916800};
  const double wide = held_within(static_cast<double>(x), 200.0), square = wide * wide;
  const double e = exp_f64(wide);
  return static_cast<float>(square < 0.25 ? wide + wide * (square * series(c, square)) : 0.5 * (e - 1.0 / e));
}
EK_INLINE float cosh_lane(float x) {
  const double e = exp_f64(held_within(static_cast<double>(x), 200.0));
  return static_cast<float>(0.5 * (e + 1.0 / e));
}

/// Of a positive number that double holds as a normal one.
EK_INLINE double log_f64(double x) {
  constexpr double c[] = {1.0 / 3, 1.0 / 5, 1.0 / 7, 1.0 / 9, 1.0 / 11, 1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19};
  const uint64_t bits = bits_of_f64(x), above = bits - 0x3FE6A09E667F3BCD;  // less the bits of sqrt(1/2)
  const double e = static_cast<double>(static_cast<int64_t>(above) >> 52);
  const double m = f64_of(bits - (above & 0xFFF0000000000000));
  const double s = (m - 1.0) / (m + 1.0), square = s * s;
  return e * 0x1.62e42fefa39efp-1 + 2.0 * (s + s * (square * series(c, square)));
}
EK_INLINE float pow_lane(float x, float y) {
  if (y == 0 || x == 1) return 1.0f;
  if (x != x || y != y) return kNanF32;
  const float base = size_of_f32(x), size = size_of_f32(y);
  const bool whole = size >= 0x1p24f || static_cast<float>(static_cast<int32_t>(y)) == y;
  const bool flips = (bits_of_f32(x) >> 31) != 0 && whole && size < 0x1p24f && (static_cast<int32_t>(y) & 1) != 0;
  float power;
  if (base == 0 || base == kInfinityF32) {
    power = (base == 0) == (y < 0) ? kInfinityF32 : 0.0f;
  } else if (size == kInfinityF32) {
    power = base == 1 ? 1.0f : (base > 1) == (y > 0) ? kInfinityF32 : 0.0f;
  } else if (x < 0 && !whole) {
    power = kNanF32;
  } else {
    power =
        static_cast<float>(exp_f64(held_within(static_cast<double>(y) * log_f64(static_cast<double>(base)), 200.0)));
  }
  return flips ? -power : power;
}

/// x - y * trunc(x / y), exactly: mantissas, 40 bits of the quotient at a time.
EK_INLINE float fmod_lane(float x, float y) {
  const float a = size_of_f32(x), b = size_of_f32(y);
  if (!(a < kInfinityF32) || !(b > 0)) return kNanF32;  // or a NaN
  if (a < b) return x;
  const auto exponent = [](float v) { return static_cast<int>(bits_of_f32(v) >> 23); };
  const auto mantissa = [](float v) -> uint64_t {
    const uint32_t bits = bits_of_f32(v);
    return bits < 0x800000 ? bits : (bits & 0x7FFFFF) | 0x800000;
  };
  const int ea = exponent(a) > 1 ? exponent(a) : 1, eb = exponent(b) > 1 ? exponent(b) : 1;  // of the last bit
  const uint64_t divisor = mantissa(b);
  uint64_t rest = mantissa(a) % divisor;
  for (int left = ea - eb; left > 0; left -= 40) rest = (rest << (left < 40 ? left : 40)) % divisor;
  // Below 2^24 times b's last bit: exact, though the bit may be a subnormal.
  const double unit = f64_of(static_cast<uint64_t>(eb - 150 + 1023) << 52);
  const auto size = static_cast<float>(static_cast<double>(rest) * unit);
  return f32_of(bits_of_f32(size) | (bits_of_f32(x) & 0x80000000));
}
/// The remainder with the sign of y, as Python's %.
EK_INLINE float mod_lane(float x, float y) {
  const float rest = fmod_lane(x, y);
  if (rest == 0) return f32_of(bits_of_f32(y) & 0x80000000);
  return (rest < 0) != (y < 0) ? rest + y : rest;
}

}  // namespace
}  // namespace ek
