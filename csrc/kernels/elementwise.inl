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
  const ByteStore bytes(bounds.lo, bounds.hi, q.zero_point, q.sign);
  quantize_run(n, Quotient(q.scale), bytes, y,
               [&](size_t i, size_t left) EK_LAMBDA { return load_f32_n(x + i, left); });
}

void quantize_triples(const float* x, size_t plane, size_t n, QuantParams q, uint8_t* y) {
  const Bounds bounds = bounds_of(q);
  const F32 lo = set1_f32(bounds.lo), hi = set1_f32(bounds.hi);
  const I32 zero_point = set1_i32(q.zero_point);
  const Quotient quotient(q.scale);
  for (size_t i = 0; i < n; i += kStrip) {
    F32 real[3];
    I32 lanes[3];
    unroll<3>([&](auto c) EK_LAMBDA { real[c.value] = load_f32_n(x + c.value * plane + i, n - i); });
    quotient(real);
    unroll<3>([&](auto c) EK_LAMBDA { lanes[c.value] = add_i32(rne_i32(clamp(real[c.value], lo, hi)), zero_point); });
    if (n - i >= kStrip) {
      store_triples(y + 3 * i, lanes[0], lanes[1], lanes[2]);
    } else {
      uint8_t bytes[3 * kStrip];
      store_triples(bytes, lanes[0], lanes[1], lanes[2]);
      copy_bytes(y + 3 * i, bytes, 3 * (n - i));
    }
  }
}

void dequantize(const uint8_t* x, size_t n, QuantParams q, float* y) {
  for (size_t i = 0; i < n; i += kStrip)
    store_f32_n(y + i, dequantize_lanes(load_bytes_n(x + i, q.sign, n - i), q), n - i);
}

/// The zero point is added before the clamp: what that rounds lies far outside of 8 bits.
void quantize_columns(const float* x, size_t rows, size_t n, const ColumnMaps& maps, uint8_t* y) {
  const float least = maps.sign == Sign::kU8 ? 0.0f : -128.0f;
  const F32 lo = set1_f32(least), hi = set1_f32(least + 255.0f);
  for (; rows > 0; --rows, x += n, y += n) {
    for (size_t i = 0; i < n; i += kStrip) {
      const F32 q = round_f32(div_f32(load_f32_n(x + i, n - i), load_f32(maps.scale + i)));
      store_bytes_n(y + i, rne_i32(clamp(add_f32(q, load_f32(maps.zero_point + i)), lo, hi)), n - i);
    }
  }
}

void dequantize_columns(const uint8_t* x, size_t rows, size_t n, const ColumnMaps& maps, float* y) {
  for (; rows > 0; --rows, x += n, y += n) {
    for (size_t i = 0; i < n; i += kStrip) {
      const F32 q = sub_f32(to_f32(load_bytes_n(x + i, maps.sign, n - i)), load_f32(maps.zero_point + i));
      store_f32_n(y + i, mul_f32(q, load_f32(maps.scale + i)), n - i);
    }
  }
}

/// The n floats from x on, some of them twice where that costs less than lanes behind masks: `block(i)` takes 64 from i
/// on, `first()` the first 16, after which those of a long row start with cache lines. Fewer than 64 are `rest`.
template <typename First, typename Block, typename Rest>
EK_INLINE void by_blocks(const float* x, size_t n, First&& first, Block&& block, Rest&& rest) {
  constexpr size_t kLong = 256;
  if (n < 64) return rest();
  size_t i = n < kLong ? 0 : -(reinterpret_cast<uintptr_t>(x) / sizeof(float)) % kStrip;
  if (i != 0) first();
  for (; i + 64 <= n; i += 64) block(i);
  if (i < n) block(n - 64);
}

/// The bits of the largest |x|: above those of infinity where there is a NaN.
EK_INLINE int32_t peak_bits(const float* x, size_t n) {
  const I32 zero = set1_i32(0);
  I32 best[4] = {zero, zero, zero, zero};
  const auto block = [&](size_t i) EK_LAMBDA {
    unroll<4>([&](auto s)
                  EK_LAMBDA { best[s.value] = max_i32(size_bits(load_f32(x + i + s.value * kStrip)), best[s.value]); });
  };
  const auto rest = [&]() EK_LAMBDA {
    unroll<4>([&](auto s) EK_LAMBDA {
      constexpr size_t at = decltype(s)::value * kStrip;
      if (at < n) best[s.value] = size_bits(load_f32_n(x + at, n - at));
    });
  };
  by_blocks(
      x, n, [&]() EK_LAMBDA { best[0] = size_bits(load_f32(x)); }, block, rest);
  return max_lane(max_i32(max_i32(best[0], best[1]), max_i32(best[2], best[3])));
}

/// How a row becomes codes: those of u8, of which `zero` is that of 0.0.
struct RowMap {
  float scale, inverse;
  int32_t zero;
  bool finite;
};

EK_INLINE float float_of_bits(int32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

EK_INLINE RowMap symmetric_map(const float* x, size_t n) {
  const int32_t bits = peak_bits(x, n);
  const RowScale by(float_of_bits(bits));
  return {by.scale, by.inverse, 128, bits < 0x7F800000};
}

constexpr float kRounds = 0x1.8p23f;  // what is added to it becomes an integer, in the lowest bits

/// From the smallest to the largest, 0 among them, in 254 steps: rounding at both ends then needs no 256th. A -NaN is
/// the largest of -x.
EK_INLINE RowMap span_map(const float* x, size_t n) {
  const I32 none = set1_i32(0), turned = set1_i32(INT32_MIN);  // added, it turns the sign
  I32 above[2] = {none, none}, below[2] = {none, none};
  const auto take = [&](F32 v, size_t at) EK_LAMBDA {
    above[at] = max_i32(bits_i32(v), above[at]);
    below[at] = max_i32(add_i32(bits_i32(v), turned), below[at]);
  };
  const auto block = [&](size_t i) EK_LAMBDA {
    unroll<4>([&](auto s) EK_LAMBDA { take(load_f32(x + i + s.value * kStrip), s.value % 2); });
  };
  const auto rest = [&]() EK_LAMBDA {
    for (size_t at = 0; at < n; at += kStrip) take(load_f32_n(x + at, n - at), 0);
  };
  by_blocks(
      x, n, [&]() EK_LAMBDA { take(load_f32(x), 0); }, block, rest);
  const float most = float_of_bits(max_lane(max_i32(above[0], above[1])));
  const float least = float_of_bits(max_lane(max_i32(below[0], below[1])));
  const RowScale by(most + least, 254.0f);
  int32_t zero;
  const float shifted = least * by.inverse + kRounds;
  __builtin_memcpy(&zero, &shifted, 4);
  return {by.scale, by.inverse, by.finite() ? zero & 0xFF : 128, by.finite()};
}

/// A row without a NaN or an infinity. Adding kRounds and the code of 0 leaves a code in the lowest bits. `next` is
/// fetched meanwhile: as many floats, which need not be there.
EK_INLINE void quantize_finite_row(const float* x, const float* next, size_t n, const RowMap& map, Sign sign,
                                   uint8_t* y) {
  const F32 shift = set1_f32(kRounds + static_cast<float>(map.zero)), factor = set1_f32(map.inverse);
  const auto code = [&](F32 v) EK_LAMBDA { return bits_i32(add_f32(mul_f32(v, factor), shift)); };
  I32 q[4];
  const auto block = [&](size_t i) EK_LAMBDA {
    unroll<4>([&](auto s) EK_LAMBDA {
      constexpr size_t at = decltype(s)::value * kStrip;
      q[s.value] = code(load_f32(x + i + at));
      __builtin_prefetch(next + i + at);
    });
    store_biased(y + i, q, sign, 64);
  };
  const auto rest = [&]() EK_LAMBDA {
    unroll<4>([&](auto s) EK_LAMBDA {
      constexpr size_t at = decltype(s)::value * kStrip;
      q[s.value] = at < n ? code(load_f32_n(x + at, n - at)) : set1_i32(0);
      __builtin_prefetch(next + at);
    });
    store_biased(y, q, sign, n);
  };
  const I32 to_value = set1_i32(sign == Sign::kS8 ? -128 : 0);
  by_blocks(
      x, n, [&]() EK_LAMBDA { store_bytes(y, add_i32(code(load_f32(x)), to_value)); }, block, rest);
}

/// A row that is not finite, once more.
__attribute__((noinline)) void quantize_odd_row(const float* x, size_t n, Sign sign, uint8_t* y, float* scale) {
  const ByteStore bytes(-128.0f, 127.0f, sign == Sign::kU8 ? 128 : 0, sign);
  F32 best = set1_f32(0.0f);
  for (size_t i = 0; i < n; i += kStrip) best = max_f32(abs_f32(load_f32_n(x + i, n - i)), best);
  const RowScale by(max_lane(best));
  *scale = by.scale;
  quantize_run(n, by, bytes, y, [&](size_t at, size_t left) EK_LAMBDA { return load_f32_n(x + at, left); });
}

/// Short rows go four at a time: finding one's map overlaps with the others'. NaN is passed over in the peak and
/// becomes -128.
template <typename MapOf>
EK_INLINE void quantize_each_row(const float* x, size_t rows, size_t n, size_t ldx, Sign sign, uint8_t* y, size_t ldy,
                                 float* scale, MapOf&& map_of) {
  constexpr size_t kTogether = 4, kShort = 1024;
  const size_t together = n <= kShort ? kTogether : 1;
  for (size_t row = 0; row < rows; row += together) {
    const size_t count = rows - row < together ? rows - row : together;
    const float* const from = x + row * ldx;
    uint8_t* const to = y + row * ldy;
    RowMap maps[kTogether];
    bool finite = true;
    for (size_t r = 0; r < count; ++r) {
      maps[r] = map_of(row + r, from + r * ldx);
      scale[row + r] = maps[r].scale;
      finite = finite && maps[r].finite;
    }
    for (size_t r = 0; r < count; ++r) {  // they are in L1 now
      const float* const one = from + r * ldx;
      quantize_finite_row(one, one + together * ldx, n, maps[r], sign, to + r * ldy);
    }
    for (size_t r = 0; !finite && r < count; ++r) {
      if (!maps[r].finite) quantize_odd_row(from + r * ldx, n, sign, to + r * ldy, scale + row + r);
    }
  }
}

void quantize_rows(const float* x, size_t rows, size_t n, size_t ldx, Sign sign, uint8_t* y, size_t ldy, float* scale) {
  quantize_each_row(x, rows, n, ldx, sign, y, ldy, scale,
                    [&](size_t, const float* one) EK_LAMBDA { return symmetric_map(one, n); });
}

void quantize_spans(const float* x, size_t rows, size_t n, size_t ldx, Sign sign, uint8_t* y, size_t ldy, float* scale,
                    int32_t* zero_point) {
  quantize_each_row(x, rows, n, ldx, sign, y, ldy, scale, [&](size_t row, const float* one) EK_LAMBDA {
    const RowMap map = span_map(one, n);
    zero_point[row] = map.zero - 128;
    return map;
  });
}

void add(const uint8_t* a, QuantParams qa, const uint8_t* b, QuantParams qb, size_t n, QuantParams qy, float lo,
         float hi, uint8_t* y) {
  quantize_run(n, Quotient(qy.scale), ByteStore(lo, hi, qy.zero_point, qy.sign), y,
               [&](size_t i, size_t left) EK_LAMBDA {
                 return add_f32(dequantize_lanes(load_bytes_n(a + i, qa.sign, left), qa),
                                dequantize_lanes(load_bytes_n(b + i, qb.sign, left), qb));
               });
}

void lookup(const uint8_t* x, size_t n, const uint8_t* table, uint8_t* y) {
  constexpr size_t kLineBytes = 64;
  size_t i = 0;
  if (n >= kLineBytes) {
    const ByteTable bytes(table);
    for (; i + kLineBytes <= n; i += kLineBytes) {
      store_line(y + i, bytes.of(load_line(reinterpret_cast<const int8_t*>(x + i))));
    }
  }
  for (; i < n; ++i) y[i] = table[x[i]];
}

void sum_rows(const uint8_t* const* rows, size_t num_rows, size_t channels, Sign sign, int32_t* acc) {
  for (size_t c = 0; c < channels; c += kStrip) {
    const size_t n = channels - c;
    I32 sum = set1_i32(0);
    for (size_t r = 0; r < num_rows; ++r) sum = add_i32(sum, load_bytes_n(rows[r] + c, sign, n));
    store_i32_n(acc + c, sum, n);
  }
}

template <Sign kSign>
EK_INLINE void max_line(const uint8_t* const* rows, size_t num_rows, size_t c, uint8_t* y) {
  const auto line = [&](size_t r) EK_LAMBDA { return load_line(reinterpret_cast<const int8_t*>(rows[r] + c)); };
  Line best = line(0);
  for (size_t r = 1; r < num_rows; ++r) best = kSign == Sign::kU8 ? max_u8(best, line(r)) : max_s8(best, line(r));
  store_line(y + c, best);
}

/// Whole lines; the last one overlaps its neighbor. Fewer channels than a line go byte by byte.
template <Sign kSign>
EK_INLINE void max_rows_of(const uint8_t* const* rows, size_t num_rows, size_t channels, uint8_t* y) {
  constexpr size_t kLineBytes = 64;
  if (channels >= kLineBytes) {
    for (size_t c = 0; c + kLineBytes < channels; c += kLineBytes) max_line<kSign>(rows, num_rows, c, y);
    return max_line<kSign>(rows, num_rows, channels - kLineBytes, y);
  }
  constexpr uint8_t kFlip = kSign == Sign::kU8 ? 0 : 0x80;  // s8 compares as u8 once its sign bit is flipped
  uint8_t best[kLineBytes] = {};
  for (size_t r = 0; r < num_rows; ++r) {
    const uint8_t* x = rows[r];
    for (size_t c = 0; c < channels; ++c) {
      const uint8_t v = static_cast<uint8_t>(x[c] ^ kFlip);
      best[c] = best[c] > v ? best[c] : v;
    }
  }
  for (size_t c = 0; c < channels; ++c) y[c] = static_cast<uint8_t>(best[c] ^ kFlip);
}

void max_rows(const uint8_t* const* rows, size_t num_rows, size_t channels, Sign sign, uint8_t* y) {
  if (sign == Sign::kU8) return max_rows_of<Sign::kU8>(rows, num_rows, channels, y);
  max_rows_of<Sign::kS8>(rows, num_rows, channels, y);
}

struct Factor {
  F32 factor;

  template <int S>
  EK_INLINE void operator()(F32 (&x)[S]) const {
    unroll<S>([&](auto s) EK_LAMBDA { x[s.value] = mul_f32(x[s.value], factor); });
  }
};

constexpr float kLargestF32 = 3.402823466e38f;

/// Exponentials come from a table of the 256 differences, and their sum is exact, so neither the order of a row nor an
/// exp() of some machine shows. A damaged table
/// gives some codes, everywhere the same. Loads by index cost most of it, on every ISA.
void softmax(const uint8_t* x, size_t rows, size_t n, Sign sign, const int32_t* exponentials, QuantParams q,
             uint8_t* y) {
  const uint8_t flip = sign == Sign::kU8 ? 0 : 0x80;  // s8 compares as u8 once its sign bit is flipped
  const Bounds bounds = bounds_of(q);
  const ByteStore bytes(bounds.lo, bounds.hi, q.zero_point, q.sign);
  for (; rows > 0; --rows, x += n, y += n) {
    uint8_t largest = 0;
    for (size_t i = 0; i < n; ++i) {
      const uint8_t v = static_cast<uint8_t>(x[i] ^ flip);
      largest = largest > v ? largest : v;
    }
    const auto exponential = [&](size_t i) EK_LAMBDA { return exponentials[largest - (x[i] ^ flip)]; };
    int64_t sum = 0;
    for (size_t i = 0; i < n; ++i) sum += exponential(i);
    const double per_one = 1.0 / (static_cast<double>(sum > 0 ? sum : 1) * q.scale);
    const Factor factor{set1_f32(per_one < kLargestF32 ? static_cast<float>(per_one) : kLargestF32)};
    quantize_run(n, factor, bytes, y, [&](size_t i, size_t left) EK_LAMBDA {
      int32_t lanes[kStrip] = {};
      for (size_t lane = 0; lane < (left < kStrip ? left : kStrip); ++lane) lanes[lane] = exponential(i + lane);
      return to_f32(load_i32(lanes));
    });
  }
}

void requantize(const int32_t* acc, size_t n, float multiplier, float lo, float hi, int32_t zero_point, uint8_t* y) {
  const F32 m = set1_f32(multiplier), low = set1_f32(lo), high = set1_f32(hi);
  for (size_t i = 0; i < n; i += kStrip) {
    const I32 q = rne_i32(clamp(mul_f32(to_f32(load_i32_n(acc + i, n - i)), m), low, high));
    store_bytes_n(y + i, add_i32(q, set1_i32(zero_point)), n - i);
  }
}

void fold_scales(const float* scale, size_t n, float x_scale, float y_scale, float* y) {
  const double x = x_scale, divisor = y_scale;
  for (size_t i = 0; i < n; ++i) y[i] = static_cast<float>(x * scale[i] / divisor);
}

size_t fold_bias(const float* bias, const float* scale, size_t n, float x_scale, int32_t* y) {
  // Adding the shift rounds to an integer and leaves it in the lowest bits; what is too large, or a NaN, stands out.
  constexpr double kShift = 0x1.8p52;
  constexpr uint64_t kShiftBits = 0x4338000000000000;
  constexpr int64_t kLargest = (1 << 30) - 1;
  const double x = x_scale;
  int64_t wrong = 0;
  for (size_t i = 0; i < n; ++i) {
    const double shifted = bias[i] / (x * scale[i]) + kShift;
    uint64_t bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    const int64_t b = static_cast<int64_t>(bits - kShiftBits);
    wrong |= (kLargest + b) | (kLargest - b);
    y[i] = static_cast<int32_t>(b < -kLargest ? -kLargest - 1 : b > kLargest ? kLargest + 1 : b);
  }
  if (wrong >= 0) return n;
  size_t first = 0;
  while (y[first] >= -kLargest && y[first] <= kLargest) ++first;
  return first;
}

}  // namespace
}  // namespace ek
