// gemm_tile: one register tile of C, rows x (strips * 16), summed over taps x k.
//
// Operands   A: one pointer to k bytes per (tap, row), read in place (no packing, no im2col); B: packed lines.
// Method     one line of B (16 columns x 4 k) against 4 bytes of A, broadcast: lanes are columns, nothing is reduced.
// Exact      int32 sums mod 2^32, whatever the ISA's dot product is made of.
// Registers  R x S accumulators + S lines (narrow tiles end with 4 S) + 1 broadcast; the ISA's header chooses R and S.
// Stores     the last four k-quads go row by row, each row stored while the next one is multiplied: 24 stores in a
//            burst cost 50 cycles of a Zen 4, between products of two quads 20, of four none. Rows of fewer quads get
//            zeros in front, so that a row is 16 products and four stores, no questions.
// Sign       A of the other sign is flipped in the register: on cores with more vector pipes than dot products a cycle
//            that is free, and it spares a pass over A.
// Narrow     up to 4 columns leave lanes to the 3 quads that come next, where the ISA's header can fold lines.
// Edges      narrower and lower instances of the same template; the last quad of a row is loaded so that it ends there.
#pragma once

#include "kernels/epilogue.inl"

namespace ek {
namespace {

/// The last quad of a row of k bytes, filled up with zeros (as the packed weights are). It is put together in a
/// register: a load waits for stores of single bytes until all stores before them are done.
EK_INLINE void last_quad(const uint8_t* p, size_t k, uint8_t (&quad)[4]) {
  uint32_t bytes = 0;
  if (k >= 4) {
    bytes = load_u32(p + k - 4) >> 8 * (-k % 4);  // little-endian, as every ISA here is
  } else if (k > 0) {                             // of two bytes or one, some twice
    bytes = p[0] | uint32_t{p[k / 2]} << k / 2 * 8 | uint32_t{p[k - 1]} << (k - 1) * 8;
  }
  __builtin_memcpy(quad, &bytes, 4);
}

/// A quad in the sign that is multiplied.
EK_INLINE Act load_act(const uint8_t* p, bool flip) { return flip ? flip_act(load_act(p)) : load_act(p); }

#ifndef EK_SIMD_MMLA

constexpr size_t kHeld = 4;  // quads of a row that are multiplied when it is stored
constexpr size_t kTileRegisters = (kTileRows + 1) * kTileStrips + 1;  // of the largest tile

/// The quads of rows that have fewer than kHeld, behind bytes of the value 0.
__attribute__((noinline)) void few_quads(const uint8_t* const* rows, size_t num_rows, size_t k, uint8_t zero,
                                         uint8_t (*quads)[4 * kHeld]) {
  const size_t none = kHeld - 1 - (k > 0 ? (k - 1) / 4 : 0);
  for (size_t r = 0; r < num_rows; ++r) {
    for (size_t q = 0; q < kHeld - 1; ++q) {  // one store a quad, which the load of it finds
      uint32_t bytes = zero * 0x01010101u;
      if (q >= none) __builtin_memcpy(&bytes, rows[r] + 4 * (q - none), 4);
      __builtin_memcpy(quads[r] + 4 * q, &bytes, 4);
    }
    uint8_t last[4];
    last_quad(rows[r], k, last);
    __builtin_memcpy(quads[r] + 4 * (kHeld - 1), last, 4);
  }
}

/// The last quad of a row, which ends in it: it is loaded with bytes of the one before, and those are shifted out.
EK_INLINE Act load_last(const uint8_t* p, unsigned bits, bool flip) {
  const Act x = to_act(load_u32(p) >> bits);
  return flip ? flip_act(x) : x;
}

#ifdef EK_SIMD_FOLD
constexpr size_t kFoldedCols = kStrip / 4;
constexpr size_t kFoldedDepth = 80;  // below, adding lanes up takes longer than what it spares

/// Adds the products of the bytes from 0 on, as far as they fill folded lines; returns how many there are.
template <int R, bool Flip>
EK_INLINE size_t fold(const uint8_t* const (&a)[R], const int8_t* b, size_t b_step, size_t end, I32 (&acc)[R][1]) {
  I32 folded[R];
  unroll<R>([&](auto r) EK_LAMBDA { folded[r.value] = set1_i32(0); });
  size_t i = 0;
  for (; i + 16 <= end; i += 16, b += 4 * b_step) {
    const Line w = load_folded(b, b_step);
    unroll<R>([&](auto r) EK_LAMBDA {
      const Act x = load_folded(a[r.value] + i);
      folded[r.value] = dot(folded[r.value], Flip ? flip_act(x) : x, w);
      keep(folded[r.value]);  // or the compiler hands the sums from register to register
    });
  }
  unroll<R>([&](auto r) EK_LAMBDA { acc[r.value][0] = unfold(acc[r.value][0], folded[r.value]); });
  return i;
}
#endif

alignas(64) constexpr int8_t kNoWeights[kTileStrips * 64] = {};  // what stands for B where k is 0

template <int R, int S, bool Flip, bool Folded = false>
void tile(const GemmTile& t, const Epilogue& e) {
  const size_t k = t.k, b_step = t.b_step, quads = (k + 3) / 4;
  const size_t held = quads > kHeld ? 4 * (quads - kHeld) : 0;
  const uint8_t* a[R] = {};
  uint8_t few[R][4 * kHeld];
  size_t last = k - 4;  // where the last quad is loaded
  unsigned surplus = 8 * (-k % 4);
  I32 acc[R][S];
  unroll<S>([&](auto s) EK_LAMBDA {
    const I32 init = load_i32(t.init + s.value * 16);
    unroll<R>([&](auto r) EK_LAMBDA { acc[r.value][s.value] = init; });
  });
  const int8_t* b = k > 0 ? t.b : kNoWeights;
  for (size_t tap = 0; tap < t.taps; ++tap) {
    const bool hold = tap + 1 == t.taps;  // the last quads wait for store_tile
    unroll<R>([&](auto r) EK_LAMBDA { a[r.value] = t.a[tap * R + r.value]; });
    if (hold && quads < kHeld) {
      few_quads(t.a + tap * R, R, k, Flip ? 0x80 : 0, few);
      unroll<R>([&](auto r) EK_LAMBDA { a[r.value] = few[r.value]; });
      last = 4 * (kHeld - 1);
      surplus = 0;
    }
    const size_t end = hold ? held : k / 4 * 4;
    const auto multiply = [&](auto&& quad) EK_LAMBDA {
      Line w[S];
      unroll<S>([&](auto s) EK_LAMBDA {
        w[s.value] = load_line(b + s.value * 64);
        if (R > 1 && R < 4) keep(w[s.value]);  // or the compiler loads it again for every row
      });
      unroll<R>([&](auto r) EK_LAMBDA {
        const Act x = load_act(quad(r), Flip);
        unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = dot(acc[r.value][s.value], x, w[s.value]); });
      });
      b += b_step;
    };
    size_t i = 0;
#ifdef EK_SIMD_FOLD
    if constexpr (Folded) {
      i = fold<R, Flip>(a, b, b_step, end, acc);
      b += i / 4 * b_step;
    }
#endif
    for (; i < end; i += 4) multiply([&](auto r) EK_LAMBDA { return a[r.value] + i; });
    if (!hold && k % 4 != 0) {
      uint8_t quad[R][4];
      unroll<R>([&](auto r) EK_LAMBDA { last_quad(a[r.value], k, quad[r.value]); });
      multiply([&](auto r) EK_LAMBDA { return quad[r.value]; });
    }
  }
  unroll<R>([&](auto r) EK_LAMBDA {  // or the loop moves accumulators to where the stores want them
    unroll<S>([&](auto s) EK_LAMBDA { keep(acc[r.value][s.value]); });
  });
  const int8_t* lines[kHeld];  // of quads that are not there, the next one's
  lines[0] = b;
  unroll<kHeld - 1>([&](auto q)
                        EK_LAMBDA { lines[q.value + 1] = lines[q.value] + (quads + q.value >= kHeld ? b_step : 0); });
  // Lines that are loaded once for all rows: those of the last quad, and of all where a narrow tile leaves room.
  constexpr size_t kFirst = R > 1 && S < kTileStrips && (R + kHeld) * S < kTileRegisters ? 0 : kHeld - 1;
  Line w[kHeld][S];
  unroll<kHeld>([&](auto q) EK_LAMBDA {
    if constexpr (q.value >= kFirst) {
      unroll<S>([&](auto s) EK_LAMBDA {
        w[q.value][s.value] = load_line(lines[q.value] + s.value * 64);
        if (R > 1) keep(w[q.value][s.value]);
      });
    }
  });
  const auto finish_row = [&](auto r) EK_LAMBDA {
    unroll<kHeld>([&](auto q) EK_LAMBDA {
      const Act x = q.value == kHeld - 1 ? load_last(a[r.value] + last, surplus, Flip)
                                         : load_act(a[r.value] + held + 4 * q.value, Flip);
      unroll<S>([&](auto s) EK_LAMBDA {
        Line line;
        if constexpr (q.value >= kFirst) {
          line = w[q.value][s.value];
        } else {
          line = load_line(lines[q.value] + s.value * 64);
        }
        acc[r.value][s.value] = dot(acc[r.value][s.value], x, line);
      });
    });
  };
  const auto sums = [&](auto r, auto s) EK_LAMBDA { return acc[r.value][s.value]; };
  if constexpr (kIsa == Isa::kScalar) {  // no registers to save: one copy of the last products, not one a kind of C
    unroll<R>(finish_row);
    store_tile<R, S>(
        t, e, [](auto) EK_LAMBDA {}, sums);
  } else {
    store_tile<R, S>(t, e, finish_row, sums);
  }
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
#ifdef EK_SIMD_FOLD
  TileFn folded[kTileRows];
#endif
};

template <bool Flip, int R>
constexpr void fill_row(TileTable& table) {
  table.fn[R - 1][0] = tile<R, 1, Flip>;
  if constexpr (kTileStrips >= 2) table.fn[R - 1][1] = tile<R, 2, Flip>;
  if constexpr (kTileStrips >= 3) table.fn[R - 1][2] = tile<R, 3, Flip>;
  if constexpr (kTileStrips >= 4) table.fn[R - 1][3] = tile<R, 4, Flip>;
#ifdef EK_SIMD_FOLD
  table.folded[R - 1] = tile<R, 1, Flip, true>;
#endif
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

void gemm_tile(const GemmTile& t, const Epilogue& e) {
  const TileTable& table = kTiles[t.flip ? 1 : 0];
#ifdef EK_SIMD_FOLD
  if (t.cols <= kFoldedCols && t.k >= kFoldedDepth) return table.folded[t.rows - 1](t, e);
#endif
  table.fn[t.rows - 1][t.strips - 1](t, e);
}

}  // namespace
}  // namespace ek
