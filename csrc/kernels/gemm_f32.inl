// gemm_f32_tile: one register tile of a float product, rows x strips of 16 columns.
//
// Operands   A: rows of k floats, read in place; B: strips of [k][16], so that a strip is one run of memory.
// Method     a line of B against one float of A, broadcast: lanes are columns, nothing is reduced.
// Order      one fused multiply-add a lane and a k, k ascending, whatever the tile: the same bits on every ISA, for any
//            blocks and threads. Sums that wait for the next block of k wait in C, as the floats that they are.
// Registers  R x S sums, S lines, 1 broadcast; the ISA's header says how many sums there are, and how tall a tile is
// best.
#pragma once

#include "kernels/epilogue.inl"
#include "kernels/gemm_f32.h"

namespace ek {
namespace {

/// The sums of R rows x S strips, from `strip` on, over all k.
template <int R, int S>
EK_INLINE void f32_sums(const F32GemmTile& t, size_t strip, F32 (&sum)[R][S]) {
  const float* b[S];
  unroll<S>([&](auto s) EK_LAMBDA { b[s.value] = t.b + (strip + s.value) * t.b_step; });
  const float* a[(R + 2) / 3];  // two rows more are an offset away: fewer registers than a pointer each
  unroll<(R + 2) / 3>([&](auto i) EK_LAMBDA { a[i.value] = t.a + i.value * 3 * t.lda; });
  for (size_t k = 0; k < t.k; ++k) {
    F32 line[S];
    unroll<S>([&](auto s) EK_LAMBDA { line[s.value] = load_f32(b[s.value] + k * kStrip); });
    unroll<R>([&](auto r) EK_LAMBDA {
      const F32 x = set1_f32(a[r.value / 3][r.value % 3 * t.lda + k]);
      unroll<S>([&](auto s) EK_LAMBDA { sum[r.value][s.value] = fma_f32(x, line[s.value], sum[r.value][s.value]); });
    });
  }
}

template <int R, int S>
EK_INLINE void f32_part(const F32GemmTile& t, const Epilogue* e, size_t strip) {
  const size_t first = strip * kStrip, cols = t.cols - first;
  const auto c = [&](size_t r, size_t s)
                     EK_LAMBDA { return reinterpret_cast<float*>(t.c + r * t.ldc) + first + s * kStrip; };
  const auto lanes = [&](size_t s) EK_LAMBDA { return cols - s * kStrip; };
  F32 sum[R][S];
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA {
      sum[r.value][s.value] = t.starts ? set1_f32(0.0f) : load_f32_n(c(r.value, s.value), lanes(s.value));
    });
  });
  f32_sums<R, S>(t, strip, sum);
  if (e == nullptr) {
    unroll<R>([&](auto r) EK_LAMBDA {
      unroll<S>([&](auto s) EK_LAMBDA { store_f32_n(c(r.value, s.value), sum[r.value][s.value], lanes(s.value)); });
    });
    return;
  }
  float sums[R * S * kStrip];
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { store_f32(sums + (r.value * S + s.value) * kStrip, sum[r.value][s.value]); });
  });
  store_real_sums(t, *e, sums, strip, S);
}

template <int R>
__attribute__((noinline)) void f32_tile_rows_of(const F32GemmTile& t, const Epilogue* e) {
  constexpr int S = kF32Sums / R > 4 ? 4 : kF32Sums / R > 0 ? kF32Sums / R : 1;
  size_t strip = 0;
  for (; (strip + S - 1) * kStrip < t.cols; strip += S) f32_part<R, S>(t, e, strip);
  for (; strip * kStrip < t.cols; ++strip) f32_part<R, 1>(t, e, strip);
}

void gemm_f32_tile(const F32GemmTile& t, const Epilogue* e) {
  unroll<kF32TileRows>([&](auto r) EK_LAMBDA {
    if (t.rows == r.value + 1) f32_tile_rows_of<r.value + 1>(t, e);
  });
}

uint64_t fma_burst(size_t iterations) {
  constexpr int R = kF32TileRows, S = kF32Sums / R;
  float a[R] = {}, b[S * kStrip] = {}, c[R * S * kStrip] = {};
  F32 sum[R][S];
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { sum[r.value][s.value] = load_f32(c + (r.value * S + s.value) * kStrip); });
  });
  for (size_t it = 0; it < iterations; ++it) {
    asm volatile("" : : "r"(a), "r"(b) : "memory");  // the operands may have changed: no product can be hoisted
    F32 line[S];
    unroll<S>([&](auto s) EK_LAMBDA { line[s.value] = load_f32(b + s.value * kStrip); });
    unroll<R>([&](auto r) EK_LAMBDA {
      const F32 x = set1_f32(a[r.value]);
      unroll<S>([&](auto s) EK_LAMBDA { sum[r.value][s.value] = fma_f32(x, line[s.value], sum[r.value][s.value]); });
    });
  }
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { store_f32(c + (r.value * S + s.value) * kStrip, sum[r.value][s.value]); });
  });
  asm volatile("" : : "r"(c) : "memory");  // the sums are used
  return static_cast<uint64_t>(iterations) * R * S * kStrip;
}

}  // namespace
}  // namespace ek
