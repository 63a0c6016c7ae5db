// w4_tile: rows x 64 columns of C on 4-bit weights, whose groups along k have scales of their own.
//
// Operands   A: signed bytes by w4_quantize. B: one panel (gemm/pack4.h), read once from its first byte to its last.
// Method     one line of B holds 8 values of k of 16 columns: its low nibbles, in [0, 15], meet the first quad of A's
//            octet, its high ones the second. Lanes are columns. The 8 too much in every nibble is taken back by the
//            starting value.
// Exact      |dot| < 2^19 in a group of 128 or fewer, so int32 and its float are exact; then one fused multiply-add a
//            group, and one a run, in ascending order: the same bits on every ISA. Products of floats take the place of
//            dot products on many cores, so a run, which is one scale of A, is several groups.
// 16 bits    a value is 256 * high + low, both signed bytes: two dots, and 256 times the one plus the other is an
//            int32 below 2^27, exact, and rounded to a float once.
// Registers  R x S int32 accumulators + S lines + 1 quad + the mask, as in gemm_tile, and R x S sums of the run; where
//            they do not fit the totals are in L1, touched once a run. One row takes two panels in turns of a run, for
//            the reason in gemv.inl; with turns so long, four streams are slower than two.
// Edges      A is padded to whole octets with zeros, the panel to 64 columns with zero scales; C is stored by its
//            columns.
#pragma once

#include "kernels/epilogue.inl"
#include "kernels/gemm_int4.h"

namespace ek {
namespace {

constexpr size_t kLineBytes = kPanel * kOctet / 2;  // one octet of every column
constexpr size_t kHalvesBytes = kPanel * 2;         // the scales of one group, or its offsets
constexpr size_t kRunOctets = kW4Run / kOctet;
constexpr float kW4Wide = 127 * 256;  // the largest value of 16 bits whose two bytes are signed, in whole steps of 8
constexpr size_t kAheadBytes = 16 * kLineBytes;  // one row fetches a line of the octet so far ahead
constexpr int kUnrolled = 4;                     // octets of the smallest group: its loop costs moves of every sum

EK_INLINE RowScale w4_scale(const float* x, size_t n) {
  F32 peak = set1_f32(0.0f);
  for (size_t i = 0; i < n; i += kStrip) peak = max_f32(abs_f32(load_f32_n(x + i, n - i)), peak);
  return RowScale(max_lane(peak));
}

/// Returns the sum. With `high`, in steps 256 times as small, to 127 * 256 at most.
EK_INLINE int32_t w4_quantize_group(const float* x, size_t n, const RowScale& scaled, int8_t* q, int8_t* high) {
  const bool wide = high != nullptr;
  // A NaN and minus infinity reach lo.
  const F32 lo = set1_f32(wide ? -kW4Wide : -128.0f), hi = set1_f32(wide ? kW4Wide : 127.0f);
  const F32 finer = set1_f32(wide ? 256.0f : 1.0f);
  I32 sum = set1_i32(0);
  for (size_t i = 0; i < n; i += 2 * kStrip) {
    const size_t left = n - i;
    F32 y[2] = {load_f32_n(x + i, left), set1_f32(0.0f)};
    if (left > kStrip) y[1] = load_f32_n(x + i + kStrip, left - kStrip);
    scaled(y);
    unroll<2>([&](auto s) EK_LAMBDA {
      constexpr size_t at = decltype(s)::value * kStrip;
      if (left <= at) return;
      const I32 code = rne_i32(clamp(mul_f32(y[s.value], finer), lo, hi));
      sum = add_i32(sum, code);
      if (!wide) return store_bytes(reinterpret_cast<uint8_t*>(q + i + at), code);
      int32_t codes[kStrip];
      store_i32(codes, code);
      for (size_t lane = 0; lane < kStrip; ++lane) {
        const int32_t upper = (codes[lane] + 128) >> 8;
        high[i + at + lane] = static_cast<int8_t>(upper);
        q[i + at + lane] = static_cast<int8_t>(codes[lane] - upper * 256);
      }
    });
  }
  int32_t lanes[kStrip], total = 0;
  store_i32(lanes, sum);
  for (size_t lane = 0; lane < kStrip; ++lane) total += lanes[lane];
  return total;
}

void w4_quantize(const W4Row& row) {
  RowScale by = w4_scale(row.x, row.whole_row ? row.k : 0);
  int32_t* start = row.start;
  for (size_t first = 0, run = 0; first < row.k; first += kW4Run, ++run) {
    const size_t end = row.k - first < kW4Run ? row.k : first + kW4Run;
    if (!row.whole_row) by = w4_scale(row.x + first, end - first);
    row.scale[run * row.stride] = (row.high == nullptr ? by.scale : by.scale * 0x1p-8f) * row.unit;
    for (size_t i = first; i < end; i += row.group, start += row.stride) {
      const size_t n = end - i < row.group ? end - i : row.group;
      *start = -8 * w4_quantize_group(row.x + i, n, by, row.q + i, row.high == nullptr ? nullptr : row.high + i);
    }
  }
}

/// R rows of B bytes a value x S strips of P panels, from `strip` on, which take turns of one run. One row fetches what
/// comes next into L2, as gemv does.
template <bool kOffset, int R, int B, int S, int P>
EK_INLINE void w4_strips(const W4Tile* tiles, const Epilogue& e, size_t strip) {
  const W4Tile& t = tiles[0];  // what all panels share
  const size_t ldq = t.ldq;
  const int8_t* q = t.q;
  const int32_t* start = t.start;
  const float* row_scale = t.scale;
  size_t at = strip * 64;  // in each panel
  F32 total[P][R][S];
  unroll<P>([&](auto p) EK_LAMBDA {
    unroll<R>([&](auto r) EK_LAMBDA {
      unroll<S>([&](auto s) EK_LAMBDA { total[p.value][r.value][s.value] = set1_f32(0.0f); });
    });
  });
  for (size_t left = t.octets; left != 0;) {
    const size_t run = left < kRunOctets ? left : kRunOctets;
    left -= run;
    const int32_t* group_start = nullptr;
    size_t end = 0;
    unroll<P>([&](auto p) EK_LAMBDA {
      const uint8_t* b = tiles[p.value].panel + at;
      const int8_t* x = q;
      group_start = start;
      F32 sum[R][S];
      unroll<R>([&](auto r)
                    EK_LAMBDA { unroll<S>([&](auto s) EK_LAMBDA { sum[r.value][s.value] = set1_f32(0.0f); }); });
      for (size_t rest = run; rest != 0; group_start += R) {
        const size_t octets = rest < t.octets_per_group ? rest : t.octets_per_group;
        rest -= octets;
        I32 acc[R * B][S];  // of a row, its low bytes and then its high ones
        unroll<R * B>([&](auto r) EK_LAMBDA {
          const I32 first = set1_i32(r.value % B == 0 ? group_start[r.value / B] : 0);
          unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = first; });
        });
        const auto multiply = [&]() EK_LAMBDA {
          const int8_t* line = reinterpret_cast<const int8_t*>(b);
          if (R == 1) __builtin_prefetch(line + kAheadBytes, 0, 2);
          Line w[S];
          unroll<S>([&](auto s) EK_LAMBDA { w[s.value] = low_nibbles(load_line(line + s.value * 64)); });
          unroll<R * B>([&](auto r) EK_LAMBDA {
            const Quad quad = load_quad(x + r.value * ldq);
            unroll<S>([&](auto s)
                          EK_LAMBDA { acc[r.value][s.value] = dot_u4(acc[r.value][s.value], quad, w[s.value]); });
          });
          unroll<S>([&](auto s) EK_LAMBDA { w[s.value] = high_nibbles(load_line(line + s.value * 64)); });
          unroll<R * B>([&](auto r) EK_LAMBDA {
            const Quad quad = load_quad(x + r.value * ldq + kOctet / 2);
            unroll<S>([&](auto s)
                          EK_LAMBDA { acc[r.value][s.value] = dot_u4(acc[r.value][s.value], quad, w[s.value]); });
          });
          x += kOctet;
          b += kLineBytes;
        };
        if (kIsa != Isa::kScalar && octets == kUnrolled) {  // lanes in memory move nowhere
          unroll<kUnrolled>([&](auto) EK_LAMBDA { multiply(); });
        } else {
          for (size_t octet = 0; octet < octets; ++octet) multiply();
        }
        const uint16_t* halves = reinterpret_cast<const uint16_t*>(b - strip * 64) + strip * kStrip;
        unroll<S>([&](auto s) EK_LAMBDA {
          const F32 scale = load_f16(halves + s.value * kStrip);
          unroll<R>([&](auto r) EK_LAMBDA {
            I32 whole = acc[r.value * B][s.value];
            if (B == 2) whole = add_i32(whole, shift_left<8>(acc[r.value * B + B - 1][s.value]));
            F32 dot = to_f32(whole);
            if (kOffset) {
              // start is -8 * sum(q): its eighth is exact.
              const float sum_q = static_cast<float>(group_start[r.value]) * -0.125f;
              dot = fma_f32(load_f16(halves + kPanel + s.value * kStrip), set1_f32(sum_q), dot);
            }
            sum[r.value][s.value] = fma_f32(dot, scale, sum[r.value][s.value]);
          });
        });
        b += (kOffset ? 2 : 1) * kHalvesBytes;
      }
      unroll<R>([&](auto r) EK_LAMBDA {
        const F32 scale = set1_f32(row_scale[r.value]);
        unroll<S>([&](auto s) EK_LAMBDA {
          F32& y = total[p.value][r.value][s.value];
          y = fma_f32(sum[r.value][s.value], scale, y);
        });
      });
      end = static_cast<size_t>(b - tiles[p.value].panel);
    });
    start = group_start;
    row_scale += R;
    q += run * kOctet;
    at = end;
  }
  unroll<P>([&](auto p) EK_LAMBDA {
    float sums[R * S * kStrip];
    unroll<R>([&](auto r) EK_LAMBDA {
      unroll<S>([&](auto s) EK_LAMBDA {
        store_f32(sums + (r.value * S + s.value) * kStrip, total[p.value][r.value][s.value]);
      });
    });
    store_real_sums(tiles[p.value], e, sums, strip, S);
  });
}

/// Strips at a time: all four where their accumulators and sums, or at least the accumulators, fit in registers.
constexpr int w4_width(int rows) {
  if (kTileStrips == 4) return rows <= 4 ? 4 : 2;
  return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

template <bool kOffset, int R, int B = 1>
void w4_rows(const W4Tile& t, const Epilogue& e) {
  constexpr int S = w4_width(R * B);
  for (size_t strip = 0; strip * kStrip < t.cols; strip += S) w4_strips<kOffset, R, B, S, 1>(&t, e, strip);
}

/// Five rows of two strips keep their sums in registers, six spill them.
constexpr int kW4TileRows = kTileStrips == 4 ? 5 : kTileRows;

template <bool kOffset>
void w4_tile_of(const W4Tile& t, const Epilogue& e) {
  constexpr int kFive = kW4TileRows < 5 ? kW4TileRows : 5;
  constexpr void (*kRows[])(const W4Tile&, const Epilogue&) = {w4_rows<kOffset, 1>,     w4_rows<kOffset, 2>,
                                                               w4_rows<kOffset, 3>,     w4_rows<kOffset, 4>,
                                                               w4_rows<kOffset, kFive>, w4_rows<kOffset, kW4TileRows>};
  kRows[t.rows - 1](t, e);
}

template <bool kOffset>
void w4_wide_of(const W4Tile& t, const Epilogue& e) {
  constexpr void (*kRows[])(const W4Tile&, const Epilogue&) = {w4_rows<kOffset, 1, 2>, w4_rows<kOffset, 2, 2>,
                                                               w4_rows<kOffset, kW4TileRows / 2, 2>};
  kRows[t.rows - 1](t, e);
}

void w4_tile(const W4Tile& t, const Epilogue& e) {
  if (t.wide) return t.has_offset ? w4_wide_of<true>(t, e) : w4_wide_of<false>(t, e);
  t.has_offset ? w4_tile_of<true>(t, e) : w4_tile_of<false>(t, e);
}

template <bool kOffset>
void w4_gemv_of(const W4Tile* t, const Epilogue& e) {
  constexpr int S = w4_width(1), kAtOnce = kTileStrips == S ? kW4GemvPanels : 1;
  for (size_t p = 0; p < kW4GemvPanels; p += kAtOnce) w4_strips<kOffset, 1, 1, S, kAtOnce>(t + p, e, 0);
}

void w4_gemv(const W4Tile* t, const Epilogue& e) { t->has_offset ? w4_gemv_of<true>(t, e) : w4_gemv_of<false>(t, e); }

}  // namespace
}  // namespace ek
