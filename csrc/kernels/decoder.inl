// What a decoder does to rows of floats: norm, rotation, products with float32 weights.
//
// Order   sums over a row run over 64 lanes (element i in lane i % 64), which a fixed tree brings together: the same
//         bits on every ISA. Sums over k of a product run in ascending k, one lane a column.
#pragma once

#include "kernels/decoder.h"
#include "kernels/epilogue.inl"

namespace ek {
namespace {

float sum_squares(const float* x, size_t n) {
  F32 sum[4];
  unroll<4>([&](auto s) EK_LAMBDA { sum[s.value] = set1_f32(0.0f); });
  size_t i = 0;
  for (; i + 64 <= n; i += 64) {
    unroll<4>([&](auto s) EK_LAMBDA {
      const F32 v = load_f32(x + i + s.value * kStrip);
      sum[s.value] = add_f32(sum[s.value], mul_f32(v, v));
    });
  }
  unroll<4>([&](auto s) EK_LAMBDA {
    const size_t at = i + s.value * kStrip;
    if (at < n) {
      const F32 v = load_f32_n(x + at, n - at);
      sum[s.value] = add_f32(sum[s.value], mul_f32(v, v));
    }
  });
  float lanes[kStrip];
  store_f32(lanes, add_f32(add_f32(sum[0], sum[1]), add_f32(sum[2], sum[3])));
  for (size_t width = kStrip / 2; width > 0; width /= 2) {
    for (size_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

/// Lanes i to i + n of (x * factor) * gain.
EK_INLINE F32 normed(const NormRow& row, F32 factor, size_t i, size_t n) {
  return mul_f32(mul_f32(load_f32_n(row.x + i, n), factor), load_f32_n(row.gain + i, n));
}

void norm_row(const NormRow& row, float* y) {
  const F32 factor = set1_f32(row.factor);
  for (size_t i = 0; i < row.n; i += kStrip) store_f32_n(y + i, normed(row, factor, i, row.n - i), row.n - i);
}

void norm_quantize_row(const NormRow& row, Sign sign, uint8_t* y, float* scale) {
  const F32 factor = set1_f32(row.factor);
  F32 best = set1_f32(0.0f);
  for (size_t i = 0; i < row.n; i += kStrip) best = max_f32(abs_f32(normed(row, factor, i, row.n - i)), best);
  const RowScale by(max_lane(best));
  *scale = by.scale;
  const ByteStore bytes(-128.0f, 127.0f, sign == Sign::kU8 ? 128 : 0, sign, by.finite());  // -128: NaN, -infinity
  quantize_run(row.n, by, bytes, y,
               [&](size_t at, size_t left) EK_LAMBDA { return normed(row, factor, at, left); });  // in L1 now
}

void rotate_row(const float* x, const float* cosines, const float* sines, size_t half, float* y) {
  for (size_t i = 0; i < half; i += kStrip) {
    const size_t n = half - i;
    const F32 a = load_f32_n(x + i, n), b = load_f32_n(x + half + i, n);
    const F32 c = load_f32_n(cosines + i, n), s = load_f32_n(sines + i, n);
    store_f32_n(y + i, sub_f32(mul_f32(a, c), mul_f32(b, s)), n);
    store_f32_n(y + half + i, add_f32(mul_f32(b, c), mul_f32(a, s)), n);
  }
}

/// R rows x S strips of the panel, from `strip` on.
template <int R, int S>
EK_INLINE void f32_strips(const F32Tile& t, const Epilogue& e, size_t strip) {
  F32 sum[R][S];
  unroll<R>([&](auto r) EK_LAMBDA { unroll<S>([&](auto s) EK_LAMBDA { sum[r.value][s.value] = set1_f32(0.0f); }); });
  const float* w = t.panel + strip * kStrip;
  for (size_t k = 0; k < t.k; ++k, w += kPanel) {
    F32 line[S];
    unroll<S>([&](auto s) EK_LAMBDA { line[s.value] = load_f32(w + s.value * kStrip); });
    unroll<R>([&](auto r) EK_LAMBDA {
      const F32 x = set1_f32(t.x[r.value * t.ldx + k]);
      unroll<S>([&](auto s)
                    EK_LAMBDA { sum[r.value][s.value] = add_f32(sum[r.value][s.value], mul_f32(x, line[s.value])); });
    });
  }
  float sums[R * S * kStrip];
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { store_f32(sums + (r.value * S + s.value) * kStrip, sum[r.value][s.value]); });
  });
  store_real_sums(t, e, sums, strip, S);
}

template <int R>
void f32_rows(const F32Tile& t, const Epilogue& e) {
  constexpr int S = kTileStrips == 4 || R == 1 ? 4 : 2;  // sums, weights and one x in registers
  for (size_t strip = 0; strip * kStrip < t.cols; strip += S) f32_strips<R, S>(t, e, strip);
}

void f32_tile(const F32Tile& t, const Epilogue& e) {
  constexpr void (*kRows[])(const F32Tile&, const Epilogue&) = {f32_rows<1>, f32_rows<2>, f32_rows<3>, f32_rows<4>};
  kRows[t.rows - 1](t, e);
}

}  // namespace
}  // namespace ek
