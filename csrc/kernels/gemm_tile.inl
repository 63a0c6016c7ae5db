// gemm_tile: one register tile of C, rows x (strips * 16), summed over taps x k.
//
// Operands   A: one pointer to k bytes per (tap, row), read in place (no packing, no im2col); B: packed lines.
// Method     one line of B (16 columns x 4 k) against 4 bytes of A, broadcast: lanes are columns, nothing is reduced.
// Exact      int32 sums mod 2^32, whatever the ISA's dot product is made of.
// Registers  R x S accumulators + S lines + 1 broadcast; the ISA's header chooses R and S.
// Stores     the last two k-quads go row by row, each row stored while the next one is multiplied: 24 stores in a
//            burst cost 50 cycles of a Zen 4, stores between products cost none.
// Sign       A of the other sign is flipped in the register: on cores with more vector pipes than dot products a cycle
//            that is free, and it spares a pass over A.
// Edges      narrower and lower instances of the same template; k % 4 bytes are copied out, never read past.
#pragma once

#include "kernels/epilogue.inl"

namespace ek {
namespace {

/// The last n = k % 4 activation bytes of a tap, the rest zero (as the packed weights are). They are put together in a
/// register: a load waits for stores of single bytes until all stores before them are done.
EK_INLINE void copy_tail(const uint8_t* p, size_t k, size_t n, uint8_t (&quad)[4]) {
  uint32_t bytes = 0;
  if (k >= 4) {  // cut out of the last four
    __builtin_memcpy(&bytes, p + k - 4, 4);
    bytes >>= 8 * (4 - n);  // little-endian, as every ISA here is
  } else {
    bytes = p[0];
    if (n > 1) bytes |= uint32_t{p[1]} << 8;
    if (n > 2) bytes |= uint32_t{p[2]} << 16;
  }
  __builtin_memcpy(quad, &bytes, 4);
}

#ifndef EK_SIMD_MMLA

template <bool Flip>
EK_INLINE Act load_quad(const uint8_t* p) {
  return Flip ? flip_act(load_act(p)) : load_act(p);
}

template <int R, int S, bool Flip>
void tile(const GemmTile& t, const Epilogue& e) {
  I32 acc[R][S];
  unroll<S>([&](auto s) EK_LAMBDA {
    const I32 init = load_i32(t.init + s.value * 16);
    unroll<R>([&](auto r) EK_LAMBDA { acc[r.value][s.value] = init; });
  });
  const int8_t* b = t.b;
  const size_t tail = t.k % 4, b_step = t.b_step;
  const uint8_t* a[R] = {};
  uint8_t tails[R][4] = {};
  // The last two quads of the last tap, or the only one, wait for store_tile.
  const bool one = t.k > 0, two = t.k > 4;
  const size_t whole = t.k - tail, last = one ? (t.k - 1) / 4 * 4 : 0, held = two ? last - 4 : last;
  for (size_t tap = 0; tap < t.taps; ++tap) {
    unroll<R>([&](auto r) EK_LAMBDA {
      a[r.value] = t.a[tap * t.rows + r.value];
      if (tail != 0) copy_tail(a[r.value], t.k, tail, tails[r.value]);
    });
    const bool hold = tap + 1 == t.taps;
    const size_t end = hold ? held : whole;
    for (size_t k = 0; k < end; k += 4, b += b_step) {
      Line w[S];
      unroll<S>([&](auto s) EK_LAMBDA {
        w[s.value] = load_line(b + s.value * 64);
        if (R > 1 && R < 4) keep(w[s.value]);  // or the compiler loads it again for every row
      });
      unroll<R>([&](auto r) EK_LAMBDA {
        const Act x = load_quad<Flip>(a[r.value] + k);
        unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = dot(acc[r.value][s.value], x, w[s.value]); });
      });
    }
    if (tail != 0 && !hold) {
      unroll<R>([&](auto r) EK_LAMBDA {
        const Act x = load_quad<Flip>(tails[r.value]);
        unroll<S>([&](auto s) EK_LAMBDA {
          acc[r.value][s.value] = dot(acc[r.value][s.value], x, load_line(b + s.value * 64));
        });
      });
      b += b_step;
    }
  }
  const auto finish_row = [&](auto r) EK_LAMBDA {
    if (!one) return;
    const int8_t* line = b;
    if (two) {
      const Act x = load_quad<Flip>(a[r.value] + held);
      unroll<S>([&](auto s) EK_LAMBDA {
        acc[r.value][s.value] = dot(acc[r.value][s.value], x, load_line(line + s.value * 64));
      });
      line += b_step;
    }
    const Act x = load_quad<Flip>(tail != 0 ? tails[r.value] : a[r.value] + last);
    unroll<S>([&](auto s)
                  EK_LAMBDA { acc[r.value][s.value] = dot(acc[r.value][s.value], x, load_line(line + s.value * 64)); });
  };
  store_tile<R, S>(t, e, finish_row, [&](auto r, auto s) EK_LAMBDA { return acc[r.value][s.value]; });
}

#else  // matrix multiply of row pairs; S is 1

template <int R, int S, bool Flip>
void tile(const GemmTile& t, const Epilogue& e) {
  static_assert(S == 1);
  const auto load = [](const uint8_t* row0, const uint8_t* row1)
                        EK_LAMBDA { return Flip ? flip_rows(load_rows(row0, row1)) : load_rows(row0, row1); };
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
      unroll<kPairs>([&](auto p)
                         EK_LAMBDA { dot_pair(acc[p.value], load(a[2 * p.value] + k, a[2 * p.value + 1] + k), w); });
    }
    if (tail != 0) {
      const Line even = load_line(b), none = {vdupq_n_s8(0), vdupq_n_s8(0), vdupq_n_s8(0), vdupq_n_s8(0)};
      const Line8 w = zip_lines(even, tail > 4 ? load_line(b + b_step) : none);
      unroll<kPairs>([&](auto p) EK_LAMBDA {
        uint8_t rows[2][8] = {};
        copy_bytes(rows[0], a[2 * p.value] + whole, tail);
        copy_bytes(rows[1], a[2 * p.value + 1] + whole, tail);
        dot_pair(acc[p.value], load(rows[0], rows[1]), w);
      });
      b += tail > 4 ? 2 * b_step : b_step;
    }
  }
  store_tile<R, S>(
      t, e, [](auto) EK_LAMBDA {},
      [&](auto r, auto) EK_LAMBDA { return row_of(acc[decltype(r)::value / 2], Int<decltype(r)::value % 2>{}); });
}

#endif

using TileFn = void (*)(const GemmTile&, const Epilogue&);

struct TileTable {
  TileFn fn[kTileRows][kTileStrips];
};

template <bool Flip, int R>
constexpr void fill_row(TileTable& table) {
  table.fn[R - 1][0] = tile<R, 1, Flip>;
  if constexpr (kTileStrips >= 2) table.fn[R - 1][1] = tile<R, 2, Flip>;
  if constexpr (kTileStrips >= 3) table.fn[R - 1][2] = tile<R, 3, Flip>;
  if constexpr (kTileStrips >= 4) table.fn[R - 1][3] = tile<R, 4, Flip>;
}

template <bool Flip>
constexpr TileTable make_tile_table() {
  TileTable table{};
  fill_row<Flip, 1>(table);
  fill_row<Flip, 2>(table);
  fill_row<Flip, 3>(table);
  fill_row<Flip, 4>(table);
  if constexpr (kTileRows >= 6) {
    fill_row<Flip, 5>(table);
    fill_row<Flip, 6>(table);
  }
  return table;
}
constexpr TileTable kTiles[2] = {make_tile_table<false>(), make_tile_table<true>()};

void gemm_tile(const GemmTile& t, const Epilogue& e) { kTiles[t.flip ? 1 : 0].fn[t.rows - 1][t.strips - 1](t, e); }

}  // namespace
}  // namespace ek
