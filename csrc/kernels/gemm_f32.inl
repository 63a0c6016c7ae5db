// gemm_f32_tile: one register tile of a float product, rows x strips of 16 columns.
//
// Operands   A: rows of k floats, read in place; of a convolution one run of floats a tap, wherever a table says that
// it
//            lies. B: strips of lines of 16 floats; packed, a strip is one run of memory.
// Method     a line of B against one float of A, broadcast: lanes are columns, nothing is reduced.
// Order      one fused multiply-add a lane and a k, k ascending, whatever the tile: the same bits on every ISA, for any
//            blocks and threads. Sums that wait for the next block of k wait in C, as the floats that they are.
// Registers  R x S sums, S lines, 1 broadcast; the ISA's header says how many sums there are, and how tall a tile is
//            best.
// Epilogue   bias, clamp and addend of float32 results without leaving registers; anything else takes the sums from the
//            stack.
#pragma once

#include "kernels/epilogue.inl"
#include "kernels/gemm_f32.h"

namespace ek {
namespace {

// Half a vector takes half the registers where it is several of them; one alone is no cheaper.
constexpr int kF32NarrowRows = kF32Sums > kF32TileRows ? kF32TileRows : 2 * kF32TileRows;
static_assert(kF32NarrowRows <= kMaxF32TileRows);

/// sum += over t.k floats of R rows times lines of S strips.
template <int R, int S, typename X>
EK_INLINE void f32_run(size_t k, size_t line_step, const float* (&b)[S], X&& x, F32 (&sum)[R][S]) {
  for (size_t i = 0; i < k; ++i) {
    F32 line[S];
    unroll<S>([&](auto s) EK_LAMBDA {
      line[s.value] = load_f32(b[s.value]);
      b[s.value] += line_step;
    });
    unroll<R>([&](auto r) EK_LAMBDA {
      const F32 value = set1_f32(x(r, i));
      unroll<S>([&](auto s)
                    EK_LAMBDA { sum[r.value][s.value] = fma_f32(value, line[s.value], sum[r.value][s.value]); });
    });
  }
}

/// The sums of R rows x S strips, from `strip` on, over all runs.
template <int R, int S>
EK_INLINE void f32_sums(const F32GemmTile& t, size_t strip, F32 (&sum)[R][S]) {
  const float* b[S];
  const auto start = [&](size_t line) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { b[s.value] = t.b + line + (strip + s.value) * t.b_step; });
  };
  if (t.table == nullptr) {
    start(0);
    const float* a[(R + 2) / 3];  // two rows more are an offset away: fewer registers than a pointer each
    unroll<(R + 2) / 3>([&](auto i) EK_LAMBDA { a[i.value] = t.a + i.value * 3 * t.lda; });
    const size_t lda = t.lda;
    const auto x = [&](auto r, size_t i) EK_LAMBDA { return a[r.value / 3][r.value % 3 * lda + i]; };
    // Packed lines are a constant apart, which leaves a register more.
    if (t.b_line == kStrip) return f32_run(t.k, kStrip, b, x, sum);
    return f32_run(t.k, t.b_line, b, x, sum);
  }
  for (size_t run = 0; run < t.runs; ++run) {
    start(t.lines[run]);
    const float* a[R];
    unroll<R>([&](auto r) EK_LAMBDA { a[r.value] = t.table[run * t.table_ld + r.value] + t.shift; });
    f32_run(
        t.k, kStrip, b, [&](auto r, size_t i) EK_LAMBDA { return a[r.value][i]; }, sum);
  }
}

/// Whether sums become C in registers.
EK_INLINE bool is_simple(const Epilogue& e) {
  return e.kind == OutKind::kFloat32 && e.activation == Activation::kClamp;
}

template <int R, int S>
EK_INLINE void finish_simple(const F32GemmTile& t, const Epilogue& e, size_t first, F32 (&sum)[R][S]) {
  const F32 lo = set1_f32(e.lo), hi = set1_f32(e.hi);
  const size_t col = t.col0 + first, cols = t.cols - first;
  if (t.scale != 1.0f) {
    const F32 scale = set1_f32(t.scale);
    unroll<R>([&](auto r) EK_LAMBDA {
      unroll<S>([&](auto s) EK_LAMBDA { sum[r.value][s.value] = mul_f32(sum[r.value][s.value], scale); });
    });
  }
  if (e.bias != nullptr) {
    unroll<S>([&](auto s) EK_LAMBDA {
      const F32 bias = load_f32_n(e.bias + col + s.value * kStrip, cols - s.value * kStrip);
      unroll<R>([&](auto r) EK_LAMBDA { sum[r.value][s.value] = add_f32(sum[r.value][s.value], bias); });
    });
  }
  unroll<R>([&](auto r) EK_LAMBDA {
    const float* const addend = e.addend == nullptr ? nullptr : e.addend + (t.row0 + r.value) * e.addend_ld + col;
    unroll<S>([&](auto s) EK_LAMBDA {
      F32& y = sum[r.value][s.value];
      constexpr size_t at = decltype(s)::value * kStrip;
      if (addend != nullptr && e.addend_first) y = add_f32(y, load_f32_n(addend + at, cols - at));
      y = clamp_real(y, lo, hi);
      if (addend != nullptr && !e.addend_first) y = add_f32(y, load_f32_n(addend + at, cols - at));
    });
  });
}

/// Where a vector is several registers, those past kNarrowColumns are not used: they fall out when kNarrow is compiled.
template <int R, int S, bool kNarrow = false>
EK_INLINE void f32_part(const F32GemmTile& t, const Epilogue* e, size_t strip) {
  const size_t first = strip * kStrip, cols = t.cols - first;
  if (kNarrow && cols > kNarrowColumns) __builtin_unreachable();
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
  if (e == nullptr || is_simple(*e)) {
    if (e != nullptr) finish_simple<R, S>(t, *e, first, sum);
    unroll<R>([&](auto r) EK_LAMBDA {
      unroll<S>([&](auto s) EK_LAMBDA { store_f32_n(c(r.value, s.value), sum[r.value][s.value], lanes(s.value)); });
    });
    return;
  }
  const F32 scale = set1_f32(t.scale);
  float sums[R * S * kStrip];
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA {
      float* const to = sums + (r.value * S + s.value) * kStrip;
      if (kNarrow) store_f32(to, set1_f32(0.0f));
      store_f32_n(to, mul_f32(sum[r.value][s.value], scale), kNarrow ? kNarrowColumns : kStrip);
    });
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

template <int R>
__attribute__((noinline)) void f32_narrow_rows_of(const F32GemmTile& t, const Epilogue* e) {
  f32_part<R, 1, true>(t, e, 0);
}

void gemm_f32_tile(const F32GemmTile& t, const Epilogue* e) {
  for (size_t i = 0; i < t.ahead_lines; ++i) __builtin_prefetch(t.ahead + i * kStrip, 0, 2);
  unroll<kF32TileRows>([&](auto r) EK_LAMBDA {
    if (t.rows == r.value + 1) f32_tile_rows_of<r.value + 1>(t, e);
  });
  unroll<kF32NarrowRows - kF32TileRows>([&](auto r) EK_LAMBDA {
    if (t.rows == kF32TileRows + r.value + 1) f32_narrow_rows_of<kF32TileRows + r.value + 1>(t, e);
  });
}

/// Four floats of four rows to four of four columns, in what every ISA has.
using Four = float __attribute__((vector_size(16)));

EK_INLINE void turn_four(const float* const (&row)[4], size_t at, float* y) {
  Four v[4];
  unroll<4>([&](auto i) EK_LAMBDA { __builtin_memcpy(&v[i.value], row[i.value] + at, sizeof(Four)); });
#ifdef __clang__
#define EK_SHUFFLE4(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
  using Picks = int32_t __attribute__((vector_size(16)));
#define EK_SHUFFLE4(a, b, i, j, k, l) __builtin_shuffle(a, b, Picks{i, j, k, l})
#endif
  const Four a = EK_SHUFFLE4(v[0], v[1], 0, 4, 1, 5), b = EK_SHUFFLE4(v[2], v[3], 0, 4, 1, 5);
  const Four c = EK_SHUFFLE4(v[0], v[1], 2, 6, 3, 7), d = EK_SHUFFLE4(v[2], v[3], 2, 6, 3, 7);
  const Four out[4] = {EK_SHUFFLE4(a, b, 0, 1, 4, 5), EK_SHUFFLE4(a, b, 2, 3, 6, 7), EK_SHUFFLE4(c, d, 0, 1, 4, 5),
                       EK_SHUFFLE4(c, d, 2, 3, 6, 7)};
#undef EK_SHUFFLE4
  unroll<4>([&](auto i) EK_LAMBDA { __builtin_memcpy(y + i.value * kStrip, &out[i.value], sizeof(Four)); });
}

void f32_strip(const float* x, size_t rows, size_t cols, size_t ldx, float* y) {
  size_t c = 0;
  for (; rows == kStrip && c + 4 <= cols; c += 4) {
    unroll<4>([&](auto i) EK_LAMBDA {
      const float* const row[4] = {x + i.value * 4 * ldx, x + (i.value * 4 + 1) * ldx, x + (i.value * 4 + 2) * ldx,
                                   x + (i.value * 4 + 3) * ldx};
      turn_four(row, c, y + c * kStrip + i.value * 4);
    });
  }
  for (; c < cols; ++c) {
    for (size_t r = 0; r < kStrip; ++r) y[c * kStrip + r] = r < rows ? x[r * ldx + c] : 0.0f;
  }
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
