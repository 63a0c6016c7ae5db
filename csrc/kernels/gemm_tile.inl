// gemm_tile: one register tile of C, rows x (strips * 16), summed over taps x k.
//
// Operands   A: one pointer to k bytes per (tap, row), read in place (no packing, no im2col); B: packed lines.
// Method     one line of B (16 columns x 4 k) against 4 bytes of A, broadcast: lanes are columns, nothing is reduced.
// Exact      int32 sums mod 2^32, whatever the ISA's dot product is made of.
// Registers  R x S accumulators + S lines + 1 broadcast; the ISA's header chooses R and S.
// Edges      narrower and lower instances of the same template; k % 4 bytes are copied out, never read past.
#pragma once

#include "kernels/epilogue.inl"

namespace ek {
namespace {

/// The last k % 4 activation bytes of a tap, the rest zero (as the packed weights are).
EK_INLINE Act load_act_tail(const uint8_t* p, size_t n) {
  uint8_t quad[4] = {0, 0, 0, 0};
  copy_bytes(quad, p, n);
  return load_act(quad);
}

#ifndef EK_SIMD_MMLA

template <int R, int S>
void tile(const GemmTile& t, const Epilogue& e) {
  I32 acc[R][S];
  unroll<S>([&](auto s) EK_LAMBDA {
    const I32 init = load_i32(t.init + s.value * 16);
    unroll<R>([&](auto r) EK_LAMBDA { acc[r.value][s.value] = init; });
  });
  const int8_t* b = t.b;
  const size_t whole = t.k / 4 * 4, tail = t.k - whole, b_step = t.b_step;
  for (size_t tap = 0; tap < t.taps; ++tap) {
    const uint8_t* a[R];
    unroll<R>([&](auto r) EK_LAMBDA { a[r.value] = t.a[tap * t.rows + r.value]; });
    for (size_t k = 0; k < whole; k += 4, b += b_step) {
      Line w[S];
      unroll<S>([&](auto s) EK_LAMBDA { w[s.value] = load_line(b + s.value * 64); });
      unroll<R>([&](auto r) EK_LAMBDA {
        const Act x = load_act(a[r.value] + k);
        unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = dot(acc[r.value][s.value], x, w[s.value]); });
      });
    }
    if (tail != 0) {
      unroll<R>([&](auto r) EK_LAMBDA {
        const Act x = load_act_tail(a[r.value] + whole, tail);
        unroll<S>([&](auto s) EK_LAMBDA {
          acc[r.value][s.value] = dot(acc[r.value][s.value], x, load_line(b + s.value * 64));
        });
      });
      b += b_step;
    }
  }
  store_tile<R, S>(t, e, [&](auto r, auto s) EK_LAMBDA { return acc[r.value][s.value]; });
}

#else  // matrix multiply of row pairs; S is 1

template <int R, int S>
void tile(const GemmTile& t, const Epilogue& e) {
  static_assert(S == 1);
  constexpr int kPairs = (R + 1) / 2;
  const I32 init = load_i32(t.init);
  Pair acc[kPairs];
  unroll<kPairs>([&](auto p) EK_LAMBDA { acc[p.value] = to_pair(init, init); });
  const int8_t* b = t.b;
  const size_t whole = t.k / 8 * 8, tail = t.k - whole, b_step = t.b_step;
  for (size_t tap = 0; tap < t.taps; ++tap) {
    const uint8_t* a[2 * kPairs];  // an odd last row is paired with itself
    unroll<2 * kPairs>([&](auto r) EK_LAMBDA {
      constexpr int row = decltype(r)::value < R ? decltype(r)::value : R - 1;
      a[r.value] = t.a[tap * t.rows + row];
    });
    for (size_t k = 0; k < whole; k += 8, b += 2 * b_step) {
      const Line8 w = zip_lines(load_line(b), load_line(b + b_step));
      unroll<kPairs>(
          [&](auto p) EK_LAMBDA { dot_pair(acc[p.value], load_rows(a[2 * p.value] + k, a[2 * p.value + 1] + k), w); });
    }
    if (tail != 0) {
      const Line even = load_line(b), none = {vdupq_n_s8(0), vdupq_n_s8(0), vdupq_n_s8(0), vdupq_n_s8(0)};
      const Line8 w = zip_lines(even, tail > 4 ? load_line(b + b_step) : none);
      unroll<kPairs>([&](auto p) EK_LAMBDA {
        uint8_t rows[2][8] = {};
        copy_bytes(rows[0], a[2 * p.value] + whole, tail);
        copy_bytes(rows[1], a[2 * p.value + 1] + whole, tail);
        dot_pair(acc[p.value], load_rows(rows[0], rows[1]), w);
      });
      b += tail > 4 ? 2 * b_step : b_step;
    }
  }
  store_tile<R, S>(
      t, e, [&](auto r, auto) EK_LAMBDA { return row_of(acc[decltype(r)::value / 2], Int<decltype(r)::value % 2>{}); });
}

#endif

using TileFn = void (*)(const GemmTile&, const Epilogue&);

struct TileTable {
  TileFn fn[kTileRows][kTileStrips];
};

template <int R>
constexpr void fill_row(TileTable& table) {
  table.fn[R - 1][0] = tile<R, 1>;
  if constexpr (kTileStrips >= 2) table.fn[R - 1][1] = tile<R, 2>;
  if constexpr (kTileStrips >= 3) table.fn[R - 1][2] = tile<R, 3>;
  if constexpr (kTileStrips >= 4) table.fn[R - 1][3] = tile<R, 4>;
}

constexpr TileTable make_tile_table() {
  TileTable table{};
  fill_row<1>(table);
  fill_row<2>(table);
  fill_row<3>(table);
  fill_row<4>(table);
  if constexpr (kTileRows >= 6) {
    fill_row<5>(table);
    fill_row<6>(table);
  }
  return table;
}
constexpr TileTable kTiles = make_tile_table();

void gemm_tile(const GemmTile& t, const Epilogue& e) { kTiles.fn[t.rows - 1][t.strips - 1](t, e); }

}  // namespace
}  // namespace ek
