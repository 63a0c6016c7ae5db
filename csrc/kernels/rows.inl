// Reductions, softmax and normalization of float32 rows and columns.
//
// Method     a row is passed over two or three times, the second time from the cache. ColumnShape keep their sums in y,
// or in
//            registers, and rows are read as they lie.
// Bits       the order of rows.h, with the roundings written here; a tail adds what changes nothing to its other lanes.
#pragma once

#include "kernels/functions.inl"
#include "kernels/rows.h"

namespace ek {
namespace {

/// The first `left` lanes of v, and `filler` in the others.
EK_INLINE F32 first_or(F32 v, float filler, size_t left) {
  return left >= kStrip ? v : select_bits((1u << left) - 1, v, set1_f32(filler));
}
/// From x's beginning to its end: body(i, left).
template <typename Body>
EK_INLINE void along(size_t n, Body&& body) {
  size_t i = 0;
  for (; i + kStrip <= n; i += kStrip) body(i, size_t{kStrip});
  if (i < n) body(i, n - i);
}

/// Lane i meets lane i + 8, then i + 4, i + 2, i + 1.
template <typename Op>
EK_INLINE float meet_lanes(F32 all) {
  float lanes[2 * kStrip];
  unroll<4>([&](auto step) EK_LAMBDA {
    store_f32(lanes, all);
    store_f32(lanes + kStrip, all);
    all = Op::join(all, load_f32(lanes + (8 >> step.value)));
  });
  store_f32(lanes, all);
  return lanes[0];
}

struct Sum {
  static constexpr float kStart = 0.0f;
  static EK_INLINE F32 join(F32 sum, F32 v) { return add_f32(sum, v); }
  static EK_INLINE float meet(F32 all) { return sum_lanes(all); }
};
struct SumAbs : Sum {
  static EK_INLINE F32 join(F32 sum, F32 v) { return add_f32(sum, size_f32(v)); }
};
struct SumSquares : Sum {
  static EK_INLINE F32 join(F32 sum, F32 v) { return fma_f32(v, v, sum); }
};
struct Product {
  static constexpr float kStart = 1.0f;
  static EK_INLINE F32 join(F32 product, F32 v) { return mul_f32(product, v); }
  static EK_INLINE float meet(F32 all) { return meet_lanes<Product>(all); }
};
struct Largest {
  static constexpr float kStart = -__builtin_inff();
  static EK_INLINE F32 join(F32 best, F32 v) { return select_equal(v, v, max_f32(v, best), v); }
  static EK_INLINE float meet(F32 all) { return meet_lanes<Largest>(all); }
};
struct Smallest {
  static constexpr float kStart = __builtin_inff();
  static EK_INLINE F32 join(F32 best, F32 v) { return select_equal(v, v, min_f32(v, best), v); }
  static EK_INLINE float meet(F32 all) { return meet_lanes<Smallest>(all); }
};

/// Of some rows at once, whose sums do not wait for each other.
template <typename Op, int kRows>
EK_INLINE void reduce_few(const float* x, size_t n, float* y) {
  F32 all[kRows];
  unroll<kRows>([&](auto r) EK_LAMBDA { all[r.value] = set1_f32(Op::kStart); });
  along(n, [&](size_t i, size_t left) EK_LAMBDA {
    unroll<kRows>([&](auto r) EK_LAMBDA {
      const F32 v = first_or(load_f32_n(x + r.value * n + i, left), Op::kStart, left);
      all[r.value] = Op::join(all[r.value], v);
    });
  });
  unroll<kRows>([&](auto r) EK_LAMBDA { y[r.value] = Op::meet(all[r.value]); });
}
template <typename Op>
EK_INLINE void reduce_rows_of(const float* x, size_t rows, size_t n, float* y) {
  for (; rows >= 4; rows -= 4, x += 4 * n, y += 4) reduce_few<Op, 4>(x, n, y);
  for (; rows > 0; --rows, x += n, ++y) reduce_few<Op, 1>(x, n, y);
}

void reduce_rows(ReduceOp op, const float* x, size_t rows, size_t n, float* y) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce_rows_of<Sum>(x, rows, n, y);
    case ReduceOp::kMean:
      reduce_rows_of<Sum>(x, rows, n, y);
      for (size_t r = 0; r < rows; ++r) y[r] /= static_cast<float>(n);
      return;
    case ReduceOp::kMax:
      return reduce_rows_of<Largest>(x, rows, n, y);
    case ReduceOp::kMin:
      return reduce_rows_of<Smallest>(x, rows, n, y);
    case ReduceOp::kProd:
      return reduce_rows_of<Product>(x, rows, n, y);
    case ReduceOp::kSumAbs:
      return reduce_rows_of<SumAbs>(x, rows, n, y);
    case ReduceOp::kSumSquares:
      return reduce_rows_of<SumSquares>(x, rows, n, y);
  }
}

/// Eight rows at a time, so that y is seldom read and written.
template <typename Op>
EK_INLINE void reduce_columns_of(const float* x, ColumnShape s, float* y) {
  constexpr int kTogether = 8;
  const auto join = [&](size_t row, auto count) EK_LAMBDA {
    const float* const from = x + row * s.step;
    along(s.width, [&](size_t c, size_t left) EK_LAMBDA {
      F32 all = row == 0 ? set1_f32(Op::kStart) : load_f32_n(y + c, left);
      unroll<decltype(count)::value>(
          [&](auto r) EK_LAMBDA { all = Op::join(all, load_f32_n(from + r.value * s.step + c, left)); });
      store_f32_n(y + c, all, left);
    });
  };
  size_t row = 0;
  for (; row + kTogether <= s.n; row += kTogether) join(row, Int<kTogether>{});
  for (; row < s.n; ++row) join(row, Int<1>{});
}

void reduce_columns(ReduceOp op, const float* x, ColumnShape s, float* y) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce_columns_of<Sum>(x, s, y);
    case ReduceOp::kMean: {
      reduce_columns_of<Sum>(x, s, y);
      const F32 n = set1_f32(static_cast<float>(s.n));
      return along(s.width, [&](size_t c, size_t left)
                                EK_LAMBDA { store_f32_n(y + c, div_f32(load_f32_n(y + c, left), n), left); });
    }
    case ReduceOp::kMax:
      return reduce_columns_of<Largest>(x, s, y);
    case ReduceOp::kMin:
      return reduce_columns_of<Smallest>(x, s, y);
    case ReduceOp::kProd:
      return reduce_columns_of<Product>(x, s, y);
    case ReduceOp::kSumAbs:
      return reduce_columns_of<SumAbs>(x, s, y);
    case ReduceOp::kSumSquares:
      return reduce_columns_of<SumSquares>(x, s, y);
  }
}

/// Of some rows of one vector or less, which never leave their registers. What stands behind a row is read with it, and
/// written before the next row is: `room` floats are there.
template <int kRows>
EK_INLINE void softmax_short_rows(const float* x, size_t n, size_t room, bool log, float* y) {
  F32 less[kRows], result[kRows];
  float sum[kRows];
  unroll<kRows>([&](auto r) EK_LAMBDA {
    const size_t at = r.value * n;
    const F32 v = first_or(load_f32_n(x + at, room - at), -__builtin_inff(), n);
    less[r.value] = sub_f32(v, set1_f32(max_lane(max_f32(v, set1_f32(-__builtin_inff())))));
  });
  unroll<kRows>([&](auto r) EK_LAMBDA { result[r.value] = exp_below_zero(less[r.value]); });
  unroll<kRows>([&](auto r) EK_LAMBDA { sum[r.value] = sum_lanes(first_or(result[r.value], 0.0f, n)); });
  unroll<kRows>([&](auto r) EK_LAMBDA {
    const F32 v = log ? sub_f32(less[r.value], log_f32(set1_f32(sum[r.value])))
                      : mul_f32(result[r.value], set1_f32(1.0f / sum[r.value]));
    store_f32_n(y + r.value * n, v, room - r.value * n);
  });
}
EK_INLINE void softmax_short_rows(const float* x, size_t rows, size_t n, bool log, float* y) {
  for (; rows >= 4; rows -= 4, x += 4 * n, y += 4 * n) softmax_short_rows<4>(x, n, rows * n, log, y);
  for (; rows > 0; --rows, x += n, y += n) softmax_short_rows<1>(x, n, rows * n, log, y);
}

void softmax_f32_rows(const float* x, size_t rows, size_t n, bool log, float* y) {
  if (n <= kStrip) return softmax_short_rows(x, rows, n, log, y);
  for (; rows > 0; --rows, x += n, y += n) {
    F32 best = set1_f32(-__builtin_inff());
    along(n, [&](size_t i, size_t left)
                 EK_LAMBDA { best = max_f32(first_or(load_f32_n(x + i, left), -__builtin_inff(), left), best); });
    const F32 top = set1_f32(max_lane(best));
    F32 sum = set1_f32(0.0f);
    along(n, [&](size_t i, size_t left) EK_LAMBDA {
      const F32 e = exp_below_zero(sub_f32(load_f32_n(x + i, left), top));
      sum = add_f32(sum, first_or(e, 0.0f, left));
      if (!log) store_f32_n(y + i, e, left);
    });
    if (log) {
      const F32 less = log_f32(set1_f32(sum_lanes(sum)));
      along(n, [&](size_t i, size_t left)
                   EK_LAMBDA { store_f32_n(y + i, sub_f32(sub_f32(load_f32_n(x + i, left), top), less), left); });
    } else {
      const F32 factor = set1_f32(1.0f / sum_lanes(sum));
      along(n, [&](size_t i, size_t left)
                   EK_LAMBDA { store_f32_n(y + i, mul_f32(load_f32_n(y + i, left), factor), left); });
    }
  }
}

void softmax_f32_columns(const float* x, ColumnShape s, bool log, float* y) {
  along(s.width, [&](size_t c, size_t left) EK_LAMBDA {
    F32 top = set1_f32(-__builtin_inff()), sum = set1_f32(0.0f);
    for (size_t r = 0; r < s.n; ++r) top = max_f32(load_f32_n(x + r * s.step + c, left), top);
    for (size_t r = 0; r < s.n; ++r) {
      const F32 e = exp_below_zero(sub_f32(load_f32_n(x + r * s.step + c, left), top));
      sum = add_f32(sum, e);
      if (!log) store_f32_n(y + r * s.step + c, e, left);
    }
    const F32 scaled = log ? log_f32(sum) : div_f32(set1_f32(1.0f), sum);
    for (size_t r = 0; r < s.n; ++r) {
      float* const to = y + r * s.step + c;
      const F32 v = log ? sub_f32(sub_f32(load_f32_n(x + r * s.step + c, left), top), scaled)
                        : mul_f32(load_f32_n(to, left), scaled);
      store_f32_n(to, v, left);
    }
  });
}

void normalize_rows(const float* x, size_t rows, size_t n, Normalization how, float* y) {
  const float count = static_cast<float>(n);
  for (; rows > 0; --rows, x += n, y += n) {
    float mean = 0.0f;
    if (how.centered) {
      reduce_few<Sum, 1>(x, n, &mean);
      mean /= count;
    }
    const F32 center = set1_f32(mean);
    F32 sum = set1_f32(0.0f);
    along(n, [&](size_t i, size_t left) EK_LAMBDA {
      const F32 d = first_or(sub_f32(load_f32_n(x + i, left), center), 0.0f, left);
      sum = fma_f32(d, d, sum);
    });
    const F32 variance = add_f32(set1_f32(sum_lanes(sum) / count), set1_f32(how.epsilon));
    const F32 factor = div_f32(set1_f32(1.0f), sqrt_f32(variance));
    along(n, [&](size_t i, size_t left) EK_LAMBDA {
      const F32 v = mul_f32(sub_f32(load_f32_n(x + i, left), center), factor);
      const F32 scaled = how.scale == nullptr ? v
                         : how.bias == nullptr
                             ? mul_f32(v, load_f32_n(how.scale + i, left))
                             : fma_f32(v, load_f32_n(how.scale + i, left), load_f32_n(how.bias + i, left));
      store_f32_n(y + i, scaled, left);
    });
  }
}

}  // namespace
}  // namespace ek
