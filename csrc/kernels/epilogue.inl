// From accumulators to C without leaving registers. One function per kind; the tile chooses once. What needs more
// registers than a tile leaves, activations and sums, takes the accumulators from the stack instead, a row at a time.
#pragma once

#include "kernels/activations.inl"
#include "kernels/gemm.h"

namespace ek {
namespace {

struct QuantizedEpilogue {
  const uint8_t* residual;
  size_t residual_ld;
  Sign residual_sign;
  F32 lo, hi, scale, residual_scale;
  I32 zero_point, residual_minus_zero;
  Quotient sum_quotient;
  ByteStore sum_bytes;

  EK_INLINE explicit QuantizedEpilogue(const Epilogue& e)
      : residual(e.residual),
        residual_ld(e.residual_ld),
        residual_sign(e.residual_q.sign),
        lo(set1_f32(e.lo)),
        hi(set1_f32(e.hi)),
        scale(set1_f32(e.out.scale)),
        residual_scale(set1_f32(e.residual_q.scale)),
        zero_point(set1_i32(e.out.zero_point)),
        residual_minus_zero(set1_i32(-e.residual_q.zero_point)),
        sum_quotient(e.sum_q.scale),
        sum_bytes(e.sum_lo, e.sum_hi, e.sum_q.zero_point, e.sum_q.sign) {}

  /// 16 columns of one row with the residual added, before they are quantized; `n` of them are read.
  EK_INLINE F32 sum(I32 acc, F32 multiplier, size_t row, size_t col, size_t n) const {
    const F32 q = round_f32(clamp(mul_f32(to_f32(acc), multiplier), lo, hi));
    const I32 r = add_i32(load_bytes_n(residual + row * residual_ld + col, residual_sign, n), residual_minus_zero);
    return add_f32(mul_f32(q, scale), mul_f32(to_f32(r), residual_scale));
  }

  /// 16 columns of one row; `n` of them are stored.
  EK_INLINE void store(I32 acc, F32 multiplier, size_t row, size_t col, size_t n, uint8_t* c) const {
    if (residual == nullptr) {
      const I32 q = rne_i32(clamp(mul_f32(to_f32(acc), multiplier), lo, hi));
      return store_bytes_n(c, add_i32(q, zero_point), n);
    }
    F32 x[1] = {sum(acc, multiplier, row, col, n)};
    sum_quotient(x);
    sum_bytes.store(c, x, n);
  }
};

/// An accumulator of a row with a zero point, from column `col` on.
EK_INLINE I32 less_zero(const Epilogue& e, I32 acc, size_t row, size_t col) {
  return sub_i32(acc, mul_i32(set1_i32(e.row_zero[row]), load_i32(e.column_sum + col)));
}

struct FloatEpilogue {
  const float* bias;
  const float* row_scale;
  F32 lo, hi;

  EK_INLINE explicit FloatEpilogue(const Epilogue& e)
      : bias(e.bias), row_scale(e.row_scale), lo(set1_f32(e.lo)), hi(set1_f32(e.hi)) {}

  /// The real value of 16 columns of one row, `n` of which have a bias.
  EK_INLINE F32 real(I32 acc, F32 multiplier, size_t row, size_t col, size_t n) const {
    const F32 scale = row_scale == nullptr ? multiplier : mul_f32(set1_f32(row_scale[row]), multiplier);
    const F32 y = mul_f32(to_f32(acc), scale);
    return bias == nullptr ? y : add_f32(y, load_f32_n(bias + col, n));
  }

  EK_INLINE void store(I32 acc, F32 multiplier, size_t row, size_t col, size_t n, float* c) const {
    store_f32_n(c, clamp_real(real(acc, multiplier, row, col, n), lo, hi), n);
  }
};

EK_INLINE size_t strip_cols(size_t cols, size_t strip) {
  const size_t left = cols - strip * kStrip;
  return left < kStrip ? left : kStrip;
}

/// The 8-bit kind with a residual. `acc` has rows x (S * 16).
template <int S>
__attribute__((noinline)) void store_sums(const GemmTile& t, const Epilogue& e, const int32_t* acc) {
  const QuantizedEpilogue store(e);
  const float* const multiplier = e.multiplier + t.col0;
  const size_t rows = t.rows, cols = t.cols, row0 = t.row0, col0 = t.col0, ldc = t.ldc;
  uint8_t* c = static_cast<uint8_t*>(t.c);
  for (size_t r = 0; r < rows; ++r, acc += S * kStrip, c += ldc) {
    F32 x[S];
    unroll<S>([&](auto s) EK_LAMBDA {
      constexpr size_t at = decltype(s)::value * kStrip;
      x[s.value] =
          store.sum(load_i32(acc + at), load_f32(multiplier + at), row0 + r, col0 + at, strip_cols(cols, s.value));
    });
    store.sum_quotient(x);
    store.sum_bytes.store(c, x, cols);
  }
}

/// z[i] = f(z[i]), by strips.
template <typename F>
EK_INLINE void map_strips(float* z, size_t strips, F&& f) {
  for (size_t s = 0; s < strips; ++s) store_f32(z + s * kStrip, f(load_f32(z + s * kStrip)));
}

EK_INLINE void activate(const Epilogue& e, float* z, size_t strips) {
  switch (e.activation) {
    case Activation::kClamp: {
      const F32 lo = set1_f32(e.lo), hi = set1_f32(e.hi);
      return map_strips(z, strips, [&](F32 x) EK_LAMBDA { return clamp_real(x, lo, hi); });
    }
    case Activation::kGelu:
      return map_strips(z, strips, [](F32 x) EK_LAMBDA { return gelu(x); });
    case Activation::kGeluTanh:
      return map_strips(z, strips, [](F32 x) EK_LAMBDA { return gelu_tanh(x); });
    case Activation::kSilu:
      return map_strips(z, strips, [](F32 x) EK_LAMBDA { return silu(x); });
    case Activation::kSwiglu:
      for (size_t s = 0; s < strips; s += 2) {
        const F32 a = load_f32(z + s * kStrip);
        const F32 b = s + 1 < strips ? load_f32(z + (s + 1) * kStrip) : set1_f32(0.0f);
        store_f32(z + s / 2 * kStrip, mul_f32(silu(even_lanes(a, b)), odd_lanes(a, b)));
      }
  }
}

/// From the real values of a row to C, for the real kinds: activation, addend, rounding.
class RealStore {
 public:
  EK_INLINE explicit RealStore(const Epilogue& e)
      : RealStore(e, e.out.sign == Sign::kU8 ? 0.0f : -128.0f, static_cast<float>(e.out.zero_point)) {}

  /// `z` has strips * 16 values, which are overwritten; the first `columns` are those of the product from `col` on.
  EK_INLINE void store(float* z, size_t strips, size_t row, size_t col, size_t columns, uint8_t* c) const {
    const size_t cols = out_columns(e_, columns);
    if (e_.addend_first) add(z, row, col, cols);
    activate(e_, z, strips);
    if (!e_.addend_first) add(z, row, col, cols);
    switch (e_.kind) {
      case OutKind::kFloat16:
        for (size_t i = 0; i < cols; i += kStrip)
          store_f16_n(reinterpret_cast<uint16_t*>(c) + i, load_f32(z + i), cols - i);
        break;
      case OutKind::kBfloat16:
        for (size_t i = 0; i < cols; i += kStrip)
          store_bf16_n(reinterpret_cast<uint16_t*>(c) + i, load_f32(z + i), cols - i);
        break;
      case OutKind::kRealQuantized:
        quantize_run(cols, quotient_, bytes_, c,
                     [&](size_t i, size_t left) EK_LAMBDA { return left == 0 ? set1_f32(0.0f) : load_f32(z + i); });
        break;
      default:
        for (size_t i = 0; i < cols; i += kStrip)
          store_f32_n(reinterpret_cast<float*>(c) + i, load_f32(z + i), cols - i);
    }
  }

 private:
  EK_INLINE void add(float* z, size_t row, size_t col, size_t cols) const {
    if (e_.addend == nullptr) return;
    const float* const addend = e_.addend + row * e_.addend_ld + out_columns(e_, col);
    for (size_t i = 0; i < cols; i += kStrip)
      store_f32(z + i, add_f32(load_f32(z + i), load_f32_n(addend + i, cols - i)));
  }

  EK_INLINE RealStore(const Epilogue& e, float low, float zero)
      : e_(e), quotient_(e.out.scale), bytes_(low - zero, low + 255.0f - zero, e.out.zero_point, e.out.sign) {}

  const Epilogue& e_;
  Quotient quotient_;
  ByteStore bytes_;
};

/// Sums of an F32GemmTile or a W4Tile, some strips of all rows, become C. A call for every tile, so that its code is
/// there once and not in each height of tile.
template <typename Tile>
__attribute__((noinline)) void store_real_sums(const Tile& t, const Epilogue& e, float* sums, size_t strip,
                                               size_t strips) {
  const RealStore real(e);
  const size_t first = strip * kStrip, left = t.cols - first, cols = left < strips * kStrip ? left : strips * kStrip;
  for (size_t r = 0; r < t.rows; ++r, sums += strips * kStrip) {
    for (size_t i = 0; e.bias != nullptr && i < cols; i += kStrip)
      store_f32(sums + i, add_f32(load_f32(sums + i), load_f32_n(e.bias + t.col0 + first + i, cols - i)));
    real.store(sums, strips, t.row0 + r, t.col0 + first, cols, t.c + r * t.ldc + out_bytes(e, first));
  }
}

/// The real kinds, whatever they ask for. `acc` has rows x (strips * 16).
[[maybe_unused]] __attribute__((noinline)) void store_reals(const GemmTile& t, const Epilogue& e, const int32_t* acc) {
  const FloatEpilogue scaled(e);
  const RealStore real(e);
  for (size_t r = 0; r < t.rows; ++r, acc += t.strips * kStrip) {
    float z[kPanel];
    for (size_t s = 0; s < t.strips; ++s) {
      const size_t col = t.col0 + s * kStrip, n = strip_cols(t.cols, s);
      const F32 multiplier = load_f32(e.multiplier + col);
      const I32 sum = load_i32(acc + s * kStrip);
      const I32 whole = e.row_zero == nullptr ? sum : less_zero(e, sum, t.row0 + r, col);
      store_f32(z + s * kStrip, scaled.real(whole, multiplier, t.row0 + r, col, n));
    }
    real.store(z, t.strips, t.row0 + r, t.col0, t.cols, static_cast<uint8_t*>(t.c) + r * t.ldc);
  }
}

/// Keeps the compiler from moving loads and stores across: rows are multiplied and stored in turn.
EK_INLINE void row_done() { asm volatile("" : : : "memory"); }

/// kFloat32 without a curve or an addend. What is the same for a whole row is decided once a row.
template <int R, int S, typename Finish, typename Acc>
EK_INLINE void store_floats(const GemmTile& t, const Epilogue& e, Finish&& finish_row, Acc&& acc) {
  const F32 lo = set1_f32(e.lo), hi = set1_f32(e.hi);
  const bool whole = t.cols == S * kStrip, stream = t.stream_c && whole;
  const bool from_below = e.lo > -__builtin_inff(), from_above = e.hi < __builtin_inff();
  const float* const multiplier = e.multiplier + t.col0;
  const float* const bias = e.bias == nullptr ? nullptr : e.bias + t.col0;
  unroll<R>([&](auto r) EK_LAMBDA {
    finish_row(r);
    float* const row = reinterpret_cast<float*>(static_cast<uint8_t*>(t.c) + r.value * t.ldc);
    const F32 scale = set1_f32(e.row_scale == nullptr ? 1.0f : e.row_scale[t.row0 + r.value]);
    F32 y[S];
    if (e.row_zero == nullptr) {
      unroll<S>([&](auto s) EK_LAMBDA { y[s.value] = to_f32(acc(r, s)); });
    } else {
      unroll<S>([&](auto s) EK_LAMBDA {
        y[s.value] = to_f32(less_zero(e, acc(r, s), t.row0 + r.value, t.col0 + s.value * kStrip));
      });
    }
    unroll<S>([&](auto s) EK_LAMBDA {
      y[s.value] = mul_f32(y[s.value], mul_f32(scale, load_f32(multiplier + s.value * kStrip)));
    });
    if (bias != nullptr && whole) {
      unroll<S>([&](auto s) EK_LAMBDA { y[s.value] = add_f32(y[s.value], load_f32(bias + s.value * kStrip)); });
    } else if (bias != nullptr) {
      unroll<S>([&](auto s) EK_LAMBDA {
        y[s.value] = add_f32(y[s.value], load_f32_n(bias + s.value * kStrip, strip_cols(t.cols, s.value)));
      });
    }
    if (from_below) unroll<S>([&](auto s) EK_LAMBDA { y[s.value] = max_f32(lo, y[s.value]); });
    if (from_above) unroll<S>([&](auto s) EK_LAMBDA { y[s.value] = min_f32(hi, y[s.value]); });
    if (stream) {
      unroll<S>([&](auto s) EK_LAMBDA { stream_f32(row + s.value * kStrip, y[s.value]); });
    } else if (whole) {
      unroll<S>([&](auto s) EK_LAMBDA { store_f32(row + s.value * kStrip, y[s.value]); });
    } else {
      unroll<S>([&](auto s)
                    EK_LAMBDA { store_f32_n(row + s.value * kStrip, y[s.value], strip_cols(t.cols, s.value)); });
    }
    row_done();
  });
}

/// Rows of S vectors whose bytes are packed at once.
template <int S>
constexpr int together = (S <= 2 && ByteStore::kStoresRows) ? 4 / S : 1;

/// One row of S vectors, or some where the ISA packs them together.
template <int S, int N, typename Bytes>
EK_INLINE void store_rows(const Bytes& bytes, uint8_t* c, size_t ldc, const F32 (&x)[N], size_t cols) {
  if constexpr (N > S) {
    bytes.template store_rows<S>(c, ldc, x, cols);
  } else {
    bytes.store(c, x, cols);
  }
}

/// Stores R rows x S strips of accumulators; finish_row(r) completes those of a row, then acc(r, s) gives one of them.
template <int R, int S, typename Finish, typename Acc>
EK_INLINE void store_tile(const GemmTile& t, const Epilogue& e, Finish&& finish_row, Acc&& acc) {
  uint8_t* c = static_cast<uint8_t*>(t.c);
  const size_t cols = t.cols, ldc = t.ldc;
  if (e.kind == OutKind::kInt32) {
    const bool whole = cols == S * kStrip, stream = t.stream_c && whole;
    unroll<R>([&](auto r) EK_LAMBDA {
      finish_row(r);
      int32_t* const row = reinterpret_cast<int32_t*>(c + r.value * ldc);
      if (stream) {
        unroll<S>([&](auto s) EK_LAMBDA { stream_i32(row + s.value * kStrip, acc(r, s)); });
      } else if (whole) {
        unroll<S>([&](auto s) EK_LAMBDA { store_i32(row + s.value * kStrip, acc(r, s)); });
      } else {
        unroll<S>([&](auto s) EK_LAMBDA { store_i32_n(row + s.value * kStrip, acc(r, s), strip_cols(cols, s.value)); });
      }
      row_done();
    });
  } else if (e.kind == OutKind::kQuantized && e.residual == nullptr) {
    F32 multiplier[S];
    unroll<S>([&](auto s) EK_LAMBDA { multiplier[s.value] = load_f32(e.multiplier + t.col0 + s.value * 16); });
    ByteStore bytes(e.lo, e.hi, e.out.zero_point, e.out.sign);
    bytes.expect(multiplier);
    constexpr int kTogether = together<S>;
    unroll<(R + kTogether - 1) / kTogether>([&](auto group) EK_LAMBDA {
      constexpr int first = decltype(group)::value * kTogether, rows = R - first < kTogether ? R - first : kTogether;
      F32 x[rows * S];
      unroll<rows>([&](auto i) EK_LAMBDA {
        constexpr Int<first + decltype(i)::value> r;
        finish_row(r);
        unroll<S>([&](auto s)
                      EK_LAMBDA { x[i.value * S + s.value] = mul_f32(to_f32(acc(r, s)), multiplier[s.value]); });
      });
      store_rows<S>(bytes, c + first * ldc, ldc, x, cols);
      row_done();
    });
  } else if (e.kind == OutKind::kFloat32 && e.activation == Activation::kClamp && e.addend == nullptr) {
    store_floats<R, S>(t, e, finish_row, acc);
  } else {
    int32_t spilled[R * S * 16];
    unroll<R>([&](auto r) EK_LAMBDA {
      finish_row(r);
      unroll<S>([&](auto s) EK_LAMBDA { store_i32(spilled + (r.value * S + s.value) * 16, acc(r, s)); });
      row_done();
    });
    e.kind == OutKind::kQuantized ? store_sums<S>(t, e, spilled) : store_reals(t, e, spilled);
  }
}

}  // namespace
}  // namespace ek
