// gemm_spread: gemm_tile on rows whose bytes lie there as int16, where that is what the dot product multiplies.
//
// Why        a tile of one strip would widen four bytes of every row again for each strip of columns, and the weights
// of
//            the last quads for each row that it stores: a third of all that it does.
// Rows       spread_rows: all taps of a row one after the other, quads filled up; (k0, k2, k1, k3) of each, of the
// native
//            sign. What fills a quad up meets weights of zero.
// Exact      as gemm_tile: sums mod 2^32.
#pragma once

#include "kernels/epilogue.inl"

#ifdef EK_SIMD_SPREAD

namespace ek {
namespace {

void spread_rows(const GemmTile& t, int16_t* out, size_t stride) {
  for (size_t r = 0; r < t.rows; ++r, out += stride) {
    int16_t* to = out;
    for (size_t tap = 0; tap < t.taps; ++tap) {
      const uint8_t* const a = t.a[tap * t.rows + r];
      size_t i = 0;
      for (; i + kSpread <= t.k; i += kSpread, to += kSpread) store_spread(to, a + i, t.flip);
      if (i == t.k) continue;
      const size_t left = t.k - i;
      if (left % 4 == 0) {
        store_spread(to, a + i, t.flip, left / 4);
      } else {
        uint8_t rest[kSpread] = {};
        copy_bytes(rest, a + i, left);
        store_spread(to, rest, t.flip);
      }
      to += (left + 3) / 4 * 4;
    }
  }
}

template <int R>
void spread_tile(const GemmTile& t, const Epilogue& e) {
  I32 acc[R];
  const I32 init = load_i32(t.init);
  unroll<R>([&](auto r) EK_LAMBDA { acc[r.value] = init; });
  const int16_t* rows[R];
  unroll<R>([&](auto r) EK_LAMBDA { rows[r.value] = t.spread + r.value * t.spread_stride; });
  const int8_t* b = t.b;
  const size_t b_step = t.b_step, items = t.taps * ((t.k + 3) / 4) * 4;
  for (size_t i = 0; i < items; i += 4, b += b_step) {
    const SpreadLine w = spread(load_line(b));
    unroll<R>([&](auto r) EK_LAMBDA { acc[r.value] = dot(acc[r.value], load_spread(rows[r.value] + i), w); });
  }
  store_tile<R, 1>(
      t, e, [](auto) EK_LAMBDA {}, [&](auto r, auto) EK_LAMBDA { return acc[r.value]; });
}

void gemm_spread(const GemmTile& t, const Epilogue& e) {
  static_assert(kTileStrips == 1 && kTileRows == 4);
  constexpr void (*kRows[])(const GemmTile&, const Epilogue&) = {spread_tile<1>, spread_tile<2>, spread_tile<3>,
                                                                 spread_tile<4>};
  kRows[t.rows - 1](t, e);
}

}  // namespace
}  // namespace ek

#endif
