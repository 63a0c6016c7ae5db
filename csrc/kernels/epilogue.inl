// From accumulators to C without leaving registers. One function per kind; the tile chooses once.
#pragma once

#include "kernels/partial.inl"

namespace ek {
namespace {

struct QuantizedEpilogue {
  const Epilogue& e;
  F32 lo, hi;
  I32 zero_point;

  EK_INLINE explicit QuantizedEpilogue(const Epilogue& epilogue)
      : e(epilogue),
        lo(set1_f32(epilogue.lo)),
        hi(set1_f32(epilogue.hi)),
        zero_point(set1_i32(epilogue.out.zero_point)) {}

  /// 16 columns of one row; `n` of them are stored.
  EK_INLINE void store(I32 acc, F32 multiplier, size_t row, size_t col, size_t n, uint8_t* c) const {
    const I32 q = rne_i32(clamp(mul_f32(to_f32(acc), multiplier), lo, hi));
    if (e.residual == nullptr) return store_bytes_n(c, add_i32(q, zero_point), n);
    const I32 r = load_bytes_n(e.residual + row * e.residual_ld + col, e.residual_q.sign, n);
    F32 sum[1] = {add_f32(mul_f32(to_f32(q), set1_f32(e.out.scale)), dequantize_lanes(r, e.residual_q))};
    Quotient(e.sum_q.scale).divide(sum);
    ByteStore(e.sum_lo, e.sum_hi, e.sum_q.zero_point, e.sum_q.sign).store(c, sum, n);
  }
};

struct FloatEpilogue {
  const Epilogue& e;
  F32 lo, hi;

  EK_INLINE explicit FloatEpilogue(const Epilogue& epilogue)
      : e(epilogue), lo(set1_f32(epilogue.lo)), hi(set1_f32(epilogue.hi)) {}

  EK_INLINE void store(I32 acc, F32 multiplier, size_t row, size_t col, size_t n, float* c) const {
    const F32 scale = e.row_scale == nullptr ? multiplier : mul_f32(set1_f32(e.row_scale[row]), multiplier);
    F32 y = mul_f32(to_f32(acc), scale);
    if (e.bias != nullptr) y = add_f32(y, load_f32(e.bias + col));
    store_f32_n(c, clamp(y, lo, hi), n);
  }
};

EK_INLINE size_t strip_cols(size_t cols, int strip) {
  const size_t left = cols - static_cast<size_t>(strip) * kStrip;
  return left < kStrip ? left : kStrip;
}

/// Stores R rows x S strips of accumulators; `acc(r, s)` gives one of them.
template <int R, int S, typename Acc>
EK_INLINE void store_tile(const GemmTile& t, const Epilogue& e, Acc&& acc) {
  uint8_t* c = static_cast<uint8_t*>(t.c);
  if (e.kind == OutKind::kInt32) {
    unroll<R>([&](auto r) EK_LAMBDA {
      unroll<S>([&](auto s) EK_LAMBDA {
        int32_t* p = reinterpret_cast<int32_t*>(c + r.value * t.ldc) + s.value * 16;
        store_i32_n(p, acc(r, s), strip_cols(t.cols, s.value));
      });
    });
  } else if (e.kind == OutKind::kQuantized) {
    F32 multiplier[S];
    unroll<S>([&](auto s) EK_LAMBDA { multiplier[s.value] = load_f32(e.multiplier + t.col0 + s.value * 16); });
    if (e.residual == nullptr) {
      const size_t cols = t.cols, ldc = t.ldc;
      ByteStore bytes(e.lo, e.hi, e.out.zero_point, e.out.sign);
      bytes.expect(multiplier);
      unroll<R>([&](auto r) EK_LAMBDA {
        F32 x[S];
        unroll<S>([&](auto s) EK_LAMBDA { x[s.value] = mul_f32(to_f32(acc(r, s)), multiplier[s.value]); });
        bytes.store(c + r.value * ldc, x, cols);
      });
      return;
    }
    const QuantizedEpilogue store(e);
    unroll<S>([&](auto s) EK_LAMBDA {
      const size_t col = t.col0 + s.value * 16, n = strip_cols(t.cols, s.value);
      unroll<R>([&](auto r) EK_LAMBDA {
        store.store(acc(r, s), multiplier[s.value], t.row0 + r.value, col, n, c + r.value * t.ldc + s.value * 16);
      });
    });
  } else {
    const FloatEpilogue store(e);
    unroll<S>([&](auto s) EK_LAMBDA {
      const size_t col = t.col0 + s.value * 16, n = strip_cols(t.cols, s.value);
      const F32 multiplier = load_f32(e.multiplier + col);
      unroll<R>([&](auto r) EK_LAMBDA {
        float* p = reinterpret_cast<float*>(c + r.value * t.ldc) + s.value * 16;
        store.store(acc(r, s), multiplier, t.row0 + r.value, col, n, p);
      });
    });
  }
}

}  // namespace
}  // namespace ek
