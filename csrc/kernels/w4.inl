// w4_tile: rows x 64 columns of C on 4-bit weights, whose groups along k have scales of their own.
//
// Operands   A: signed bytes by w4_quantize. B: one panel (gemm/pack4.h), read once from its first byte to its last.
// Method     one line of B holds 8 values of k of 16 columns: its low nibbles, in [0, 15], meet the first quad of A's
//            octet, its high ones the second. Lanes are columns. The 8 too much in every nibble is taken back by the
//            starting value.
// Exact      |dot| < 2^19 in a group of 128 or fewer, so int32 and its float are exact; then one product and one sum a
//            group in ascending order, never contracted: the same bits on every ISA.
// Registers  R x S int32 accumulators + S lines + 1 quad + the mask, as in gemm_tile; where the float sums (R x S too)
//            do not fit beside them they are in L1, touched once a group. One row may take four panels at once:
//            gemv.inl says why.
// Edges      A is padded to whole octets with zeros, the panel to 64 columns with zero scales; C is stored by its
//            columns.
#pragma once

#include "kernels/epilogue.inl"

namespace ek {
namespace {

constexpr size_t kLineBytes = kPanel * kOctet / 2;  // one octet of every column
constexpr size_t kHalvesBytes = kPanel * 2;         // the scales of one group, or its offsets
constexpr size_t kAheadBytes = 1024;                // what one row fetches lies so far ahead
constexpr int kUnrolled = 4;                        // octets of the smallest group: its loop costs moves of every sum

void w4_quantize(const W4Row& row) {
  const F32 lo = set1_f32(-128.0f), hi = set1_f32(127.0f);  // only a NaN reaches lo
  const auto scale_of = [&](size_t first, size_t end) EK_LAMBDA {
    F32 peak = set1_f32(0.0f);
    for (size_t i = first; i < end; i += kStrip) peak = max_f32(abs_f32(load_f32_n(row.x + i, end - i)), peak);
    const float scale = max_lane(peak) / 127.0f;
    return scale > 0.0f ? scale : 1.0f;
  };
  float scale = row.whole_row ? scale_of(0, row.k) : 1.0f;
  for (size_t first = 0, g = 0; first < row.k; first += row.group, ++g) {
    const size_t end = row.k - first < row.group ? row.k : first + row.group;
    if (!row.whole_row) scale = scale_of(first, end);
    const F32 divisor = set1_f32(scale);
    I32 sum = set1_i32(0);
    for (size_t i = first; i < end; i += kStrip) {
      const I32 q = rne_i32(clamp(div_f32(load_f32_n(row.x + i, end - i), divisor), lo, hi));
      store_bytes(reinterpret_cast<uint8_t*>(row.q + i), q);
      sum = add_i32(sum, q);
    }
    int32_t lanes[kStrip], total = 0;
    store_i32(lanes, sum);
    for (size_t lane = 0; lane < kStrip; ++lane) total += lanes[lane];
    row.scale[g * row.stride] = scale * row.unit;
    row.start[g * row.stride] = -8 * total;
  }
}

/// The sums of some rows and strips become C.
__attribute__((noinline)) void w4_store(const W4Tile& t, const Epilogue& e, float* sums, size_t strip, size_t strips) {
  const RealStore real(e);
  const size_t first = strip * kStrip, left = t.cols - first, cols = left < strips * kStrip ? left : strips * kStrip;
  for (size_t r = 0; r < t.rows; ++r, sums += strips * kStrip) {
    for (size_t i = 0; e.bias != nullptr && i < cols; i += kStrip)
      store_f32(sums + i, add_f32(load_f32(sums + i), load_f32_n(e.bias + t.col0 + first + i, cols - i)));
    real.store(sums, strips, t.row0 + r, t.col0 + first, cols, t.c + r * t.ldc + out_bytes(e, first));
  }
}

/// R rows x S strips of P panels, from `strip` on, which take turns of one group. One row fetches what comes next into
/// L2, as gemv does.
template <bool kOffset, int R, int S, int P>
EK_INLINE void w4_strips(const W4Tile* tiles, const Epilogue& e, size_t strip) {
  const W4Tile& t = tiles[0];  // what all panels share
  const size_t ldq = t.ldq;
  const int8_t* q = t.q;
  size_t at = strip * 64;  // in each panel
  F32 sum[P][R][S];
  unroll<P>([&](auto p) EK_LAMBDA {
    unroll<R>([&](auto r)
                  EK_LAMBDA { unroll<S>([&](auto s) EK_LAMBDA { sum[p.value][r.value][s.value] = set1_f32(0.0f); }); });
  });
  size_t left = t.octets;
  for (size_t group = 0; group < t.groups; ++group) {
    const int32_t* start = t.start + group * R;
    const float* row_scale = t.scale + group * R;
    const size_t octets = left < t.octets_per_group ? left : t.octets_per_group;
    left -= octets;
    unroll<P>([&](auto p) EK_LAMBDA {
      const uint8_t* b = tiles[p.value].panel + at;
      const int8_t* x = q;
      I32 acc[R][S];
      unroll<R>([&](auto r) EK_LAMBDA {
        const I32 first = set1_i32(start[r.value]);
        unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = first; });
      });
      const auto multiply = [&]() EK_LAMBDA {
        const int8_t* line = reinterpret_cast<const int8_t*>(b);
        Line w[S];
        unroll<S>([&](auto s) EK_LAMBDA {
          if (R == 1) __builtin_prefetch(line + kAheadBytes + s.value * 64, 0, 2);
          w[s.value] = low_nibbles(load_line(line + s.value * 64));
        });
        unroll<R>([&](auto r) EK_LAMBDA {
          const Quad quad = load_quad(x + r.value * ldq);
          unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = dot_u4(acc[r.value][s.value], quad, w[s.value]); });
        });
        unroll<S>([&](auto s) EK_LAMBDA { w[s.value] = high_nibbles(load_line(line + s.value * 64)); });
        unroll<R>([&](auto r) EK_LAMBDA {
          const Quad quad = load_quad(x + r.value * ldq + kOctet / 2);
          unroll<S>([&](auto s) EK_LAMBDA { acc[r.value][s.value] = dot_u4(acc[r.value][s.value], quad, w[s.value]); });
        });
        x += kOctet;
        b += kLineBytes;
      };
      if (octets == kUnrolled) {
        unroll<kUnrolled>([&](auto) EK_LAMBDA { multiply(); });
      } else {
        for (size_t octet = 0; octet < octets; ++octet) multiply();
      }
      const uint16_t* halves = reinterpret_cast<const uint16_t*>(b - strip * 64) + strip * kStrip;
      unroll<S>([&](auto s) EK_LAMBDA {
        const F32 scale = load_f16(halves + s.value * kStrip);
        unroll<R>([&](auto r) EK_LAMBDA {
          F32 dot = to_f32(acc[r.value][s.value]);
          if (kOffset) {
            // start is -8 * sum(q): its eighth is exact.
            const float sum_q = static_cast<float>(start[r.value]) * -0.125f;
            dot = add_f32(dot, mul_f32(load_f16(halves + kPanel + s.value * kStrip), set1_f32(sum_q)));
          }
          const F32 factor = mul_f32(scale, set1_f32(row_scale[r.value]));
          F32& total = sum[p.value][r.value][s.value];
          total = add_f32(total, mul_f32(dot, factor));
        });
      });
    });
    q += octets * kOctet;
    at += octets * kLineBytes + (kOffset ? 2 : 1) * kHalvesBytes;
  }
  unroll<P>([&](auto p) EK_LAMBDA {
    float sums[R * S * kStrip];
    unroll<R>([&](auto r) EK_LAMBDA {
      unroll<S>([&](auto s)
                    EK_LAMBDA { store_f32(sums + (r.value * S + s.value) * kStrip, sum[p.value][r.value][s.value]); });
    });
    w4_store(tiles[p.value], e, sums, strip, S);
  });
}

/// Strips at a time: all four where their accumulators and sums, or at least the accumulators, fit in registers.
constexpr int w4_width(int rows) {
  if (kTileStrips == 4) return rows <= 4 ? 4 : 2;
  return rows == 1 ? 4 : rows == 2 ? 2 : 1;
}

template <bool kOffset, int R>
void w4_rows(const W4Tile& t, const Epilogue& e) {
  constexpr int S = w4_width(R);
  for (size_t strip = 0; strip * kStrip < t.cols; strip += S) w4_strips<kOffset, R, S, 1>(&t, e, strip);
}

template <bool kOffset>
void w4_tile_of(const W4Tile& t, const Epilogue& e) {
  constexpr int kFive = kTileRows == 6 ? 5 : kTileRows;
  constexpr void (*kRows[])(const W4Tile&, const Epilogue&) = {w4_rows<kOffset, 1>,     w4_rows<kOffset, 2>,
                                                               w4_rows<kOffset, 3>,     w4_rows<kOffset, 4>,
                                                               w4_rows<kOffset, kFive>, w4_rows<kOffset, kTileRows>};
  kRows[t.rows - 1](t, e);
}

void w4_tile(const W4Tile& t, const Epilogue& e) { t.has_offset ? w4_tile_of<true>(t, e) : w4_tile_of<false>(t, e); }

template <bool kOffset>
void w4_gemv_of(const W4Tile* t, const Epilogue& e) {
  constexpr int S = w4_width(1), kAtOnce = kTileStrips == S ? kGemvPanels : 1;
  for (size_t p = 0; p < kGemvPanels; p += kAtOnce) w4_strips<kOffset, 1, S, kAtOnce>(t + p, e, 0);
}

void w4_gemv(const W4Tile* t, const Epilogue& e) { t->has_offset ? w4_gemv_of<true>(t, e) : w4_gemv_of<false>(t, e); }

}  // namespace
}  // namespace ek
