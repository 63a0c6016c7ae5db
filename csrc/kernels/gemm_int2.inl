// w2_tile: rows x 64 columns of C on ternary weights, five in a byte.
//
// Operands   A: signed bytes by w4_quantize. B: one panel (gemm/pack2.h), read once from its first byte to its last.
// Method     a digit is a weight plus 1. Some lie in pairs of bits, others five in a byte, which is a fraction r / 256:
// times
//            3, its whole part is the next digit d and its rest the next r: 3 r = 256 d + r'. So the sum of d * x is,
//            over 256, three times the sum of r * x less that of r' * x, and where a dot product of bytes is one
//            instruction these digits are never taken out: two products and two additions. Elsewhere compares find
//            them. From four rows on, the digits of a run are written out as bytes once, for all rows of the tile.
// Exact      3 * 255 * 128 * 128 < 2^24 in a group: int32 is exact, as is the shift by 8. The rest is w4_tile's, in the
//            same order: the same bits as those weights have in 4.
// Registers  3 S sums + S lines + 1 quad and, of P panels in turns, P S totals.
// Edges      padding is zero in A, and has zero scales in the panel's columns; C is stored by its columns.

#include "kernels/epilogue.inl"
#include "kernels/gemm_int2.h"

namespace ek {
namespace {

constexpr int kPanelStrips = kPanel / kStrip;
constexpr size_t kQuadBytes = kPanel * 4;        // a quad of k of every column
constexpr size_t kPairs = 4;                     // pairs of bits of a byte
constexpr size_t kAheadBytes = 16 * kQuadBytes;  // one row fetches a line so far ahead
constexpr size_t kRunQuads = kW4Run / 4;
constexpr int kW2Strips = kTileStrips == 4 ? 4 : 2;              // of one row
constexpr int kUnpackedRows = kTileStrips == 4 ? 4 : kTileRows;  // five of four strips spill

/// A group of 64 * N values: lines of pairs and of fives, and N quads behind them.
template <int N>
constexpr size_t kPairLines = N == 2 ? 5 : 0;
template <int N>
constexpr size_t kFiveLines = N == 2 ? 2 : 3;
template <int N>
constexpr size_t kLineQuads = kPairLines<N>* kPairs + kFiveLines<N>* kTrits;  // then come the N
template <int N>
constexpr size_t kGroupBytes = (kPairLines<N> + kFiveLines<N>)*kQuadBytes + N* kStrip * 4 + kPanel * 2;

/// Goes through S strips of a group, from `strip` on. pairs(lines, quad) sees S lines of 4 pairs of bits, five(lines,
/// quad) S lines of 5 digits, for the quads of k from `quad` on; rest(line, s, quad) what is left of strip s, pair
/// after pair.
template <int N, int S, typename Pairs, typename Five, typename Rest>
EK_INLINE void w2_digits(const uint8_t* b, size_t strip, Pairs&& pairs, Five&& five, Rest&& rest) {
  const int8_t* const lines = reinterpret_cast<const int8_t*>(b);
  const auto line = [&](size_t i, Line(&r)[S]) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { r[s.value] = load_line(lines + i * kQuadBytes + (strip + s.value) * 64); });
  };
  for (size_t i = 0; i < kPairLines<N>; ++i) {
    Line r[S];
    line(i, r);
    pairs(r, i * kPairs);
  }
  for (size_t i = 0; i < kFiveLines<N>; ++i) {
    Line r[S];
    line(kPairLines<N> + i, r);
    five(r, kPairLines<N> * kPairs + i * kTrits);
  }
  // N lines: strip after strip, N pairs of each.
  const int8_t* const last = lines + (kPairLines<N> + kFiveLines<N>)*kQuadBytes + strip * N / kPairs * 64;
  Line r{};
  unroll<S * N>([&](auto d) EK_LAMBDA {
    if (d.value % kPairs == 0) r = load_line(last + d.value / kPairs * 64);
    if (d.value == 0 && strip * N % kPairs != 0) r = next_pairs(next_pairs(r));  // two strips of the line's four
    rest(low_pairs(r), Int<d.value / N>{}, kLineQuads<N> + d.value % N);
    r = next_pairs(r);
  });
}

/// The exact dot products of one row with a group of S strips: sums of q * (weight), starting from -sum(q).
template <int N, int S>
EK_INLINE void w2_dots(const uint8_t* b, size_t strip, const int8_t* x, int32_t start, I32 (&dot)[S]) {
  I32 near[S], ahead[S];  // of r * x and of r' * x
  unroll<S>([&](auto s) EK_LAMBDA {
    dot[s.value] = set1_i32(start);
    near[s.value] = ahead[s.value] = set1_i32(0);
  });
  w2_digits<N, S>(
      b, strip,
      [&](Line(&r)[S], size_t first) EK_LAMBDA {
        __builtin_prefetch(b + first / kPairs * kQuadBytes + kAheadBytes, 0, 2);
        unroll<static_cast<int>(kPairs)>([&](auto d) EK_LAMBDA {
          const Quad quad = load_quad(x + (first + d.value) * 4);
          unroll<S>([&](auto s) EK_LAMBDA {
            dot[s.value] = dot_u4(dot[s.value], quad, low_pairs(r[s.value]));
            r[s.value] = next_pairs(r[s.value]);
          });
        });
      },
      [&](Line(&r)[S], size_t first) EK_LAMBDA {
        __builtin_prefetch(b + first / kPairs * kQuadBytes + kAheadBytes, 0, 2);
        unroll<static_cast<int>(kTrits)>([&](auto d) EK_LAMBDA {
          const Quad quad = load_quad(x + (first + d.value) * 4);
          unroll<S>([&](auto s) EK_LAMBDA {
            if constexpr (kByteDots) {
              near[s.value] = dot_u8(near[s.value], quad, r[s.value]);
              r[s.value] = times3(r[s.value]);
              ahead[s.value] = dot_u8(ahead[s.value], quad, r[s.value]);
            } else {
              dot[s.value] = dot_u4(dot[s.value], quad, thirds(r[s.value]));
              r[s.value] = times3(r[s.value]);
            }
          });
        });
      },
      [&](Line digits, auto s, size_t at)
          EK_LAMBDA { dot[s.value] = dot_u4(dot[s.value], load_quad(x + at * 4), digits); });
  if constexpr (kByteDots) {
    unroll<S>([&](auto s) EK_LAMBDA {
      const I32 thrice = add_i32(near[s.value], add_i32(near[s.value], near[s.value]));
      dot[s.value] = add_i32(dot[s.value], shift_right<8>(sub_i32(thrice, ahead[s.value])));
    });
  }
}

EK_INLINE F32 w2_scale(const uint8_t* group, size_t group_bytes, size_t strip) {
  return load_f16(reinterpret_cast<const uint16_t*>(group + group_bytes - kPanel * 2) + strip * kStrip);
}

/// One row x S strips of P panels, from `strip` on, which take turns of a run.
template <int N, int S, int P>
EK_INLINE void w2_row(const W4Tile* tiles, const Epilogue& e, size_t strip) {
  constexpr size_t kGroupOctets = N * 64 / kOctet, kRunGroups = kW4Run / (N * 64);
  const W4Tile& t = tiles[0];  // what all panels share
  F32 total[P][S];
  unroll<P>([&](auto p) EK_LAMBDA { unroll<S>([&](auto s) EK_LAMBDA { total[p.value][s.value] = set1_f32(0.0f); }); });
  const size_t groups = t.octets / kGroupOctets;
  const float* row_scale = t.scale;
  for (size_t first = 0; first < groups; first += kRunGroups, ++row_scale) {
    const size_t end = groups - first < kRunGroups ? groups : first + kRunGroups;
    unroll<P>([&](auto p) EK_LAMBDA {
      F32 sum[S];
      unroll<S>([&](auto s) EK_LAMBDA { sum[s.value] = set1_f32(0.0f); });
      for (size_t g = first; g < end; ++g) {
        const uint8_t* const b = tiles[p.value].panel + g * kGroupBytes<N>;
        I32 dot[S];
        w2_dots<N, S>(b, strip, t.q + g * N * 64, t.start[g] / 8, dot);  // from -8 * sum(q)
        unroll<S>([&](auto s) EK_LAMBDA {
          sum[s.value] = fma_f32(to_f32(dot[s.value]), w2_scale(b, kGroupBytes<N>, strip + s.value), sum[s.value]);
        });
      }
      const F32 scale = set1_f32(*row_scale);
      unroll<S>([&](auto s)
                    EK_LAMBDA { total[p.value][s.value] = fma_f32(sum[s.value], scale, total[p.value][s.value]); });
    });
  }
  unroll<P>([&](auto p) EK_LAMBDA {
    float sums[S * kStrip];
    unroll<S>([&](auto s) EK_LAMBDA { store_f32(sums + s.value * kStrip, total[p.value][s.value]); });
    store_real_sums(tiles[p.value], e, sums, strip, S);
  });
}

/// The digits of a group as bytes: [quads][64][4].
template <int N>
EK_INLINE void w2_unpack(const uint8_t* b, uint8_t* digits) {
  for (size_t strip = 0; strip < kPanelStrips; strip += 2) {
    const auto put = [&](size_t quad, size_t s, Line found)
                         EK_LAMBDA { store_line(digits + quad * kQuadBytes + (strip + s) * 64, found); };
    w2_digits<N, 2>(
        b, strip,
        [&](Line(&r)[2], size_t first) EK_LAMBDA {
          unroll<static_cast<int>(kPairs)>([&](auto d) EK_LAMBDA {
            unroll<2>([&](auto s) EK_LAMBDA {
              put(first + d.value, s.value, low_pairs(r[s.value]));
              r[s.value] = next_pairs(r[s.value]);
            });
          });
        },
        [&](Line(&r)[2], size_t first) EK_LAMBDA {
          unroll<static_cast<int>(kTrits)>([&](auto d) EK_LAMBDA {
            unroll<2>([&](auto s) EK_LAMBDA {
              put(first + d.value, s.value, thirds(r[s.value]));
              r[s.value] = times3(r[s.value]);
            });
          });
        },
        [&](Line found, auto s, size_t at) EK_LAMBDA { put(at, s.value, found); });
  }
}

/// R rows x S strips on a group of unpacked digits: their exact products, [R][S][16]. A function of its own, or the
/// loop keeps its sums in memory, too.
template <int N, int R, int S>
__attribute__((noinline)) void w2_group(const int8_t* x, size_t ldq, const int32_t* start, const int8_t* b,
                                        int32_t* dots) {
  I32 acc[R][S];
  unroll<R>([&](auto r) EK_LAMBDA {
    const I32 first = set1_i32(start[r.value] / 8);
    unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = first; });
  });
  for (int quad = 0; quad < N * 16; ++quad, x += 4, b += kQuadBytes) {
    Line w[S];
    unroll<S>([&](auto s) EK_LAMBDA { w[s.value] = load_line(b + s.value * 64); });
    unroll<R>([&](auto r) EK_LAMBDA {
      const Quad q = load_quad(x + r.value * ldq);
      unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = dot_u4(acc[r.value][s.value], q, w[s.value]); });
    });
  }
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<S>([&](auto s) EK_LAMBDA { store_i32(dots + (r.value * S + s.value) * kStrip, acc[r.value][s.value]); });
  });
}

/// R rows on a run of unpacked digits: adds to their totals, [rows][64].
template <int N, int R>
void w2_run(const W4Tile& t, size_t row, size_t first, size_t end, const uint8_t* digits, float* total) {
  constexpr int S = kTileStrips;
  for (size_t strip = 0; strip < kPanelStrips; strip += S) {
    float sums[R * S * kStrip] = {};  // over the groups of the run
    for (size_t g = first; g < end; ++g) {
      int32_t dots[R * S * kStrip];
      const int8_t* const b = reinterpret_cast<const int8_t*>(digits) + (g - first) * N * 16 * kQuadBytes + strip * 64;
      w2_group<N, R, S>(t.q + row * t.ldq + g * N * 64, t.ldq, t.start + g * t.rows + row, b, dots);
      const uint8_t* const group = t.panel + g * kGroupBytes<N>;
      unroll<S>([&](auto s) EK_LAMBDA {
        const F32 scale = w2_scale(group, kGroupBytes<N>, strip + s.value);
        unroll<R>([&](auto r) EK_LAMBDA {
          float* const at = sums + (r.value * S + s.value) * kStrip;
          store_f32(at, fma_f32(to_f32(load_i32(dots + (r.value * S + s.value) * kStrip)), scale, load_f32(at)));
        });
      });
    }
    unroll<R>([&](auto r) EK_LAMBDA {
      const F32 scale = set1_f32(t.scale[first * N * 64 / kW4Run * t.rows + row + r.value]);
      unroll<S>([&](auto s) EK_LAMBDA {
        float* const y = total + (row + r.value) * kPanel + (strip + s.value) * kStrip;
        store_f32(y, fma_f32(load_f32(sums + (r.value * S + s.value) * kStrip), scale, load_f32(y)));
      });
    });
  }
}

template <int N>
void w2_rows(const W4Tile& t, const Epilogue& e) {
  constexpr void (*kRuns[])(const W4Tile&, size_t, size_t, size_t, const uint8_t*, float*) = {
      w2_run<N, 1>,
      w2_run<N, 2>,
      w2_run<N, 3>,
      w2_run<N, 4>,
      w2_run < N,
      kUnpackedRows < 5 ? kUnpackedRows : 5 >,
      w2_run<N, kUnpackedRows>};
  constexpr size_t kRunGroups = kW4Run / (N * 64);
  alignas(64) uint8_t digits[kRunQuads * kQuadBytes];
  alignas(64) float total[kW2TileRows * kPanel];
  for (size_t i = 0; i < t.rows * kPanel; i += kStrip) store_f32(total + i, set1_f32(0.0f));
  const size_t groups = t.octets * kOctet / (N * 64);
  const size_t parts = (t.rows + kUnpackedRows - 1) / kUnpackedRows;  // of about the same height
  for (size_t first = 0; first < groups; first += kRunGroups) {
    const size_t end = groups - first < kRunGroups ? groups : first + kRunGroups;
    for (size_t g = first; g < end; ++g) {
      w2_unpack<N>(t.panel + g * kGroupBytes<N>, digits + (g - first) * N * 16 * kQuadBytes);
    }
    for (size_t part = 0; part < parts; ++part) {
      const size_t row = part * t.rows / parts;
      kRuns[(part + 1) * t.rows / parts - row - 1](t, row, first, end, digits, total);
    }
  }
  store_real_sums(t, e, total, 0, kPanelStrips);
}

template <int N>
void w2_one(const W4Tile& t, const Epilogue& e) {
  for (size_t strip = 0; strip * kStrip < t.cols; strip += kW2Strips) w2_row<N, kW2Strips, 1>(&t, e, strip);
}

template <int N>
void w2_pair(const W4Tile* t, const Epilogue& e) {
  if constexpr (kW2Strips == kPanelStrips) {
    w2_row<N, kW2Strips, kW4GemvPanels>(t, e, 0);
  } else {
    for (size_t p = 0; p < kW4GemvPanels; ++p) w2_one<N>(t[p], e);
  }
}

void w2_tile(const W4Tile& t, const Epilogue& e) {
  const bool small = t.octets_per_group == 64 / kOctet;
  if (t.rows == 1) return small ? w2_one<1>(t, e) : w2_one<2>(t, e);
  small ? w2_rows<1>(t, e) : w2_rows<2>(t, e);
}

void w2_gemv(const W4Tile* t, const Epilogue& e) {
  t->octets_per_group == 64 / kOctet ? w2_pair<1>(t, e) : w2_pair<2>(t, e);
}

}  // namespace
}  // namespace ek
