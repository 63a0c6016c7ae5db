// gemm_thin: int32 rows of C that are one quad deep (k of 1 to 4), any number of columns.
//
// Operands   as gemm_tile's; the lines of all columns follow each other.
// Method     the weights and starting values of some columns stay in registers while the rows pass: one product and one
//            store for 16 columns. A register tile would set up 24 sums for as many products.
// Exact      as gemm_tile: sums mod 2^32.
#pragma once

#include "kernels/gemm_tile.inl"

namespace ek {
namespace {

void gemm_thin(const GemmTile& t) {
  constexpr int kStrips = kTileStrips == 4 ? 4 : 2;  // what registers hold twice
  constexpr size_t kWide = kStrips * kStrip;
  uint8_t quads[kMaxTileRows][4];
  for (size_t r = 0; r < t.rows; ++r) last_quad(t.a[r], t.k, quads[r]);
  const auto columns = [&](auto strips, size_t col, size_t cols) EK_LAMBDA {
    constexpr int S = decltype(strips)::value;
    I32 init[S];
    Line w[S];
    unroll<S>([&](auto s) EK_LAMBDA {
      init[s.value] = load_i32(t.init + col + s.value * kStrip);
      w[s.value] = load_line(t.b + (col + s.value * kStrip) * 4);
    });
    uint8_t* c = static_cast<uint8_t*>(t.c) + col * sizeof(int32_t);
    for (size_t r = 0; r < t.rows; ++r, c += t.ldc) {
      const Act x = load_act(quads[r], t.flip);
      int32_t* const row = reinterpret_cast<int32_t*>(c);
      unroll<S>([&](auto s) EK_LAMBDA {
        const I32 y = dot(init[s.value], x, w[s.value]);
        S > 1 ? store_i32(row + s.value * kStrip, y) : store_i32_n(row, y, cols);
      });
    }
  };
  size_t col = 0;
  for (; col + kWide <= t.cols; col += kWide) columns(Int<kStrips>{}, col, kWide);
  for (; col < t.cols; col += kStrip) columns(Int<1>{}, col, t.cols - col);
}

}  // namespace
}  // namespace ek
