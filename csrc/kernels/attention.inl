// Attention over one segment of a cache: scores, softmax and the weighted sum of values, for up to kSegmentRows
// queries.
//
// Operands   kernels/kv.h has the tiles. Every line of K or V that is loaded meets R queries; lanes are 16 tokens
//            (scores) or 16 values of head_dim (sums), so nothing is reduced across lanes but each row's max and sum.
// Integers   K: u8 codes by s8 query, an int32 dot per group, times the group's scale. V: the weights p * scale of 64
//            tokens become u8 with a scale of their own, and meet codes that count from the middle of their range: what
//            the weights' rounding loses falls on values of both signs. Both are exact up to those roundings.
// Bits       one fused multiply-add a product, over dims, groups and tokens in ascending order; a slot that a row does
//            not see adds 0. exp and tanh are those of functions.inl.
// Registers  R x T accumulators, T lines, one broadcast: 4 x 4 of 32 with AVX-512, 4 x 1 elsewhere.
#pragma once

#include "kernels/functions.inl"
#include "kernels/kv.h"

namespace ek {
namespace {

constexpr float kLeastWeight = 0x1p-100f;  // weights of a tile that are all below it add nothing
constexpr float kInverse255 = 0x1.010102p-8f;
constexpr int kScoreTiles = kTileStrips;  // runs of K, or strips of V, that meet a broadcast

/// Asks for what lies a segment further: each head's tiles follow each other, and while a segment's V is summed the
/// next one's K arrives. Past the last tile this is the next head's first.
EK_INLINE void fetch_ahead(const KvTile& tile, const uint8_t* p) {
  __builtin_prefetch(p + kSegment / kTileTokens * tile.bytes, 0, 2);
}

/// body(Int<R>, first row) for blocks of 4, 2 and 1 rows.
template <typename F>
EK_INLINE void by_rows(size_t rows, F&& body) {
  size_t r = 0;
  for (; rows - r >= 4; r += 4) body(Int<4>{}, r);
  if (rows - r >= 2) body(Int<2>{}, r), r += 2;
  if (rows > r) body(Int<1>{}, r);
}

template <KvKind Kind>
constexpr size_t kItemBytes = Kind == KvKind::kFloat32 ? 4 : 2;

/// 16 values of a float kind.
template <KvKind Kind>
EK_INLINE F32 load_kind(const uint8_t* p) {
  if constexpr (Kind == KvKind::kFloat32) {
    return load_f32(reinterpret_cast<const float*>(p));
  } else if constexpr (Kind == KvKind::kFloat16) {
    return load_f16(reinterpret_cast<const uint16_t*>(p));
  } else {
    return load_bf16(reinterpret_cast<const uint16_t*>(p));
  }
}

/// Raw scores of T runs of K for R queries; scores: rows kSegment apart.
template <KvKind Kind, int R, int T>
void score_floats(const KvTile& tile, const uint8_t* k, const KvQuery* q, float* scores) {
  F32 acc[R][T];
  unroll<R>([&](auto r) EK_LAMBDA { unroll<T>([&](auto t) EK_LAMBDA { acc[r.value][t.value] = set1_f32(0.0f); }); });
  for (size_t d = 0; d < tile.head_dim; ++d) {
    F32 keys[T];
    unroll<T>([&](auto t) EK_LAMBDA {
      const uint8_t* const at = k + t.value * tile.run + d * kRunTokens * kItemBytes<Kind>;
      keys[t.value] = load_kind<Kind>(at);
      fetch_ahead(tile, at);
    });
    unroll<R>([&](auto r) EK_LAMBDA {
      const F32 x = set1_f32(q[r.value].x[d]);
      unroll<T>([&](auto t) EK_LAMBDA { acc[r.value][t.value] = fma_f32(x, keys[t.value], acc[r.value][t.value]); });
    });
  }
  unroll<R>([&](auto r) EK_LAMBDA {
    unroll<T>([&](auto t)
                  EK_LAMBDA { store_f32(scores + r.value * kSegment + t.value * kRunTokens, acc[r.value][t.value]); });
  });
}

template <bool Nibbles, int R, int T>
void score_integers(const KvTile& tile, const uint8_t* k, const uint8_t* scales, const KvQuery* q, float* scores) {
  constexpr size_t kLineDims = Nibbles ? 8 : 4;
  const int32_t zero = (Nibbles ? 0 : kDotOffset) - tile.zero();
  for (size_t g = 0, d = 0; d < tile.head_dim; ++g) {
    const size_t end = tile.head_dim - d < tile.group ? tile.head_dim : d + tile.group;
    I32 acc[R][T];
    unroll<R>([&](auto r) EK_LAMBDA {
      const I32 start = set1_i32(zero * q[r.value].sums[g]);
      unroll<T>([&](auto t) EK_LAMBDA { acc[r.value][t.value] = start; });
    });
    for (; d < end; d += kLineDims) {
      Line keys[T], high[T];
      unroll<T>([&](auto t) EK_LAMBDA {
        const uint8_t* const at = k + t.value * tile.run + d / kLineDims * 64;
        keys[t.value] = load_line(reinterpret_cast<const int8_t*>(at));
        fetch_ahead(tile, at);
        keep(keys[t.value]);
        if constexpr (Nibbles) {
          high[t.value] = high_nibbles(keys[t.value]);
          keys[t.value] = low_nibbles(keys[t.value]);
        }
      });
      unroll<R>([&](auto r) EK_LAMBDA {
        const Quad x = load_quad(q[r.value].codes + d);
        if constexpr (Nibbles) {
          const Quad x4 = load_quad(q[r.value].codes + d + 4);
          unroll<T>([&](auto t) EK_LAMBDA {
            I32& sum = acc[r.value][t.value];
            sum = dot_u4(dot_u4(sum, x, keys[t.value]), x4, high[t.value]);
          });
        } else {
          unroll<T>([&](auto t) EK_LAMBDA { acc[r.value][t.value] = dot_u8(acc[r.value][t.value], x, keys[t.value]); });
        }
      });
    }
    unroll<T>([&](auto t) EK_LAMBDA {
      const uint8_t* const at = scales + (g * kTileTokens + t.value * kRunTokens) * sizeof(uint16_t);
      const F32 scale = load_f16(reinterpret_cast<const uint16_t*>(at));
      fetch_ahead(tile, at);
      F32 offset = scale;
      if (tile.asymmetric) offset = load_f16(reinterpret_cast<const uint16_t*>(at + tile.offsets - tile.scales));
      unroll<R>([&](auto r) EK_LAMBDA {
        float* const to = scores + r.value * kSegment + t.value * kRunTokens;
        const F32 dot = to_f32(acc[r.value][t.value]);
        F32 sum = g == 0 ? mul_f32(dot, scale) : fma_f32(dot, scale, load_f32(to));
        if (tile.asymmetric) sum = fma_f32(set1_f32(static_cast<float>(q[r.value].sums[g])), offset, sum);
        store_f32(to, sum);
      });
    });
  }
}

/// Raw scores of one tile.
void score(const KvTile& tile, const uint8_t* k, const KvQuery* q, size_t rows, float* scores) {
  for (size_t t = 0; t < kTileTokens / kRunTokens; t += kScoreTiles) {
    const uint8_t* const at = k + t * tile.run;
    const uint8_t* const scales = k + tile.scales + t * kRunTokens * sizeof(uint16_t);
    by_rows(rows, [&](auto count, size_t r) EK_LAMBDA {
      constexpr int kRows = decltype(count)::value;
      float* const to = scores + r * kSegment + t * kRunTokens;
      switch (tile.kind) {
        case KvKind::kFloat32:
          return score_floats<KvKind::kFloat32, kRows, kScoreTiles>(tile, at, q + r, to);
        case KvKind::kFloat16:
          return score_floats<KvKind::kFloat16, kRows, kScoreTiles>(tile, at, q + r, to);
        case KvKind::kBfloat16:
          return score_floats<KvKind::kBfloat16, kRows, kScoreTiles>(tile, at, q + r, to);
        case KvKind::kInt8:
          return score_integers<false, kRows, kScoreTiles>(tile, at, scales, q + r, to);
        case KvKind::kInt4:
          return score_integers<true, kRows, kScoreTiles>(tile, at, scales, q + r, to);
      }
    });
  }
}

/// One row's scores, raw, to exp(score - m), the softcap and the bias applied: p over `slots` slots. Tiles that are not
/// live stay as they are.
EK_INLINE void softmax_row(const KvSegment& s, size_t row, const bool* live, float* p, const float* sink_scores) {
  const uint64_t* const visible = s.visible[row];
  const F32 factor = set1_f32(s.q[row].factor), sink_factor = set1_f32(s.q_sink[row].factor);
  const F32 softcap = set1_f32(s.softcap), never = set1_f32(-__builtin_inff());
  F32 most = never;
  for (size_t i = 0; i < s.slots; i += kStrip) {
    if (!live[i / kTileTokens]) continue;
    F32 x = mul_f32(load_f32(p + i), factor);
    if (i < s.sinks) {
      const size_t left = s.sinks - i;
      const uint32_t bits = left >= kStrip ? 0xFFFF : (1u << left) - 1;
      x = select_bits(bits, mul_f32(load_f32(sink_scores + i), sink_factor), x);
    }
    if (s.softcap > 0) x = mul_f32(softcap, tanh_f32(div_f32(x, softcap)));
    if (s.bias != nullptr) x = add_f32(x, load_f32(s.bias[row] + i));
    x = select_bits(static_cast<uint32_t>(visible[i / 64] >> i % 64) & 0xFFFF, x, never);
    store_f32(p + i, x);
    most = max_f32(x, most);
  }
  const float top = max_lane(most);
  s.m[row] = top;
  s.l[row] = 0;
  if (!(top > -__builtin_inff())) {
    for (size_t i = 0; i < s.slots; i += kStrip) store_f32(p + i, set1_f32(0.0f));
    return;
  }
  F32 sum = set1_f32(0.0f);
  const F32 m = set1_f32(top);
  for (size_t i = 0; i < s.slots; i += kStrip) {
    if (!live[i / kTileTokens]) continue;
    // What overflowed on its way, less the largest, may be a NaN: it weighs nothing.
    const F32 e = max_f32(exp_below_zero(sub_f32(load_f32(p + i), m)), set1_f32(0.0f));
    store_f32(p + i, e);
    sum = add_f32(sum, e);
  }
  s.l[row] = sum_lanes(sum);
}

/// o += p v over the 64 tokens of one tile of floats.
template <KvKind Kind, int R>
void add_floats(const KvTile& tile, const uint8_t* v, const float* p, float* o, size_t o_ld) {
  constexpr size_t kLine = kStrip * kItemBytes<Kind>;
  for (size_t strip = 0; strip * kStrip < tile.head_dim; ++strip) {
    F32 acc[R];
    unroll<R>([&](auto r) EK_LAMBDA { acc[r.value] = set1_f32(0.0f); });
    for (size_t t = 0; t < kTileTokens; ++t) {
      const uint8_t* const at = v + (strip * kTileTokens + t) * kLine;
      const F32 values = load_kind<Kind>(at);
      fetch_ahead(tile, at);
      unroll<R>([&](auto r)
                    EK_LAMBDA { acc[r.value] = fma_f32(set1_f32(p[r.value * kSegment + t]), values, acc[r.value]); });
    }
    unroll<R>([&](auto r) EK_LAMBDA {
      float* const to = o + r.value * o_ld + strip * kStrip;
      store_f32(to, add_f32(load_f32(to), acc[r.value]));
    });
  }
}

/// The weights of 64 tokens, for one group of V: what p * scale becomes as u8.
struct Weights {
  alignas(64) uint8_t codes[kTileTokens];  // of this ISA's sign
  float scale, offset;  // offset: sum of p times the middle of the tokens' ranges, where codes are asymmetric
  int32_t sum;          // of the codes as u8
};

constexpr uint32_t kWeightFlip = kNativeSign == Sign::kU8 ? 0 : 0x80;

EK_INLINE void quantize_weights(const KvTile& tile, const uint8_t* v, size_t group, const float* p, Weights* out) {
  const auto scales = reinterpret_cast<const uint16_t*>(v + tile.scales) + group * kTileTokens;
  F32 w[4], most = set1_f32(0.0f);
  unroll<4>([&](auto i) EK_LAMBDA {
    w[i.value] = mul_f32(load_f32(p + i.value * kStrip), load_f16(scales + i.value * kStrip));
    most = max_f32(w[i.value], most);
  });
  const float top = max_lane(most);
  const bool counts = top > kLeastWeight;
  const F32 inverse = set1_f32(counts ? 255.0f / top : 0.0f);
  out->scale = counts ? top * kInverse255 : 0.0f;
  I32 sum = set1_i32(0);
  unroll<4>([&](auto i) EK_LAMBDA {
    const I32 code = rne_i32(mul_f32(w[i.value], inverse));
    sum = add_i32(sum, code);
    store_bytes(out->codes + i.value * kStrip, add_i32(code, set1_i32(-static_cast<int32_t>(kWeightFlip))));
  });
  out->sum = static_cast<int32_t>(sum_lanes(to_f32(sum)));
  out->offset = 0;
  if (!tile.asymmetric) return;
  const auto offsets = reinterpret_cast<const uint16_t*>(v + tile.offsets) + group * kTileTokens;
  F32 total = set1_f32(0.0f);
  const F32 half = set1_f32(tile.kind == KvKind::kInt8 ? 128.0f : 8.0f);
  unroll<4>([&](auto i) EK_LAMBDA {
    const F32 middle = fma_f32(load_f16(scales + i.value * kStrip), half, load_f16(offsets + i.value * kStrip));
    total = fma_f32(load_f32(p + i.value * kStrip), middle, total);
  });
  out->offset = sum_lanes(total);
}

/// o += weights . codes over one tile, T strips of one group.
template <bool Nibbles, int R, int T>
void add_integers(const KvTile& tile, const uint8_t* v, const Weights* weights, float* o, size_t o_ld) {
  constexpr size_t kLines = kTileTokens / (Nibbles ? 8 : 4);
  constexpr int32_t kZero = Nibbles ? -8 : 0;  // int8 codes are stored less 128
  I32 acc[R][T], column[T];
  unroll<R>([&](auto r) EK_LAMBDA {
    const I32 start = set1_i32(kZero * weights[r.value].sum);
    unroll<T>([&](auto t) EK_LAMBDA { acc[r.value][t.value] = start; });
  });
  unroll<T>([&](auto t) EK_LAMBDA { column[t.value] = set1_i32(0); });
  const auto add_line = [&](const Line(&line)[T], size_t token) EK_LAMBDA {
    unroll<R>([&](auto r) EK_LAMBDA {
      const Act w = load_act(weights[r.value].codes + token);
      unroll<T>([&](auto t) EK_LAMBDA { acc[r.value][t.value] = dot(acc[r.value][t.value], w, line[t.value]); });
    });
    if constexpr (kNativeSign == Sign::kS8) {
      constexpr uint8_t kOnes[4] = {1, 1, 1, 1};
      unroll<T>([&](auto t) EK_LAMBDA { column[t.value] = dot(column[t.value], load_act(kOnes), line[t.value]); });
    }
  };
  for (size_t i = 0; i < kLines; ++i) {
    Line line[T];
    unroll<T>([&](auto t) EK_LAMBDA {
      const uint8_t* const at = v + (t.value * kLines + i) * 64;
      line[t.value] = load_line(reinterpret_cast<const int8_t*>(at));
      fetch_ahead(tile, at);
      keep(line[t.value]);
    });
    if constexpr (Nibbles) {
      Line low[T];
      unroll<T>([&](auto t) EK_LAMBDA {
        low[t.value] = low_nibbles(line[t.value]);
        line[t.value] = high_nibbles(line[t.value]);
      });
      add_line(low, i * 8);
      add_line(line, i * 8 + 4);
    } else {
      add_line(line, i * 4);
    }
  }
  if constexpr (kNativeSign == Sign::kS8) {  // the weights came less 128
    unroll<T>([&](auto t) EK_LAMBDA {
      unroll<7>([&](auto) EK_LAMBDA { column[t.value] = add_i32(column[t.value], column[t.value]); });
      unroll<R>([&](auto r) EK_LAMBDA { acc[r.value][t.value] = add_i32(acc[r.value][t.value], column[t.value]); });
    });
  }
  unroll<R>([&](auto r) EK_LAMBDA {
    const F32 scale = set1_f32(weights[r.value].scale), offset = set1_f32(weights[r.value].offset);
    unroll<T>([&](auto t) EK_LAMBDA {
      float* const to = o + r.value * o_ld + t.value * kStrip;
      const F32 sum = fma_f32(to_f32(acc[r.value][t.value]), scale, load_f32(to));
      store_f32(to, tile.asymmetric ? add_f32(sum, offset) : sum);
    });
  });
}

template <bool Nibbles>
EK_INLINE void add_integer_tile(const KvTile& tile, const uint8_t* v, const float* p, size_t rows, float* o,
                                size_t o_ld) {
  constexpr size_t kStripBytes = kStrip * kTileTokens / (Nibbles ? 2 : 1);
  const size_t strips = (tile.head_dim + kStrip - 1) / kStrip, group_strips = (tile.group + kStrip - 1) / kStrip;
  Weights weights[kSegmentRows];
  for (size_t begin = 0, g = 0; begin < strips; begin += group_strips, ++g) {
    const size_t end = strips - begin < group_strips ? strips : begin + group_strips;
    for (size_t r = 0; r < rows; ++r) quantize_weights(tile, v, g, p + r * kSegment, weights + r);
    by_rows(rows, [&](auto count, size_t r) EK_LAMBDA {
      constexpr int kRows = decltype(count)::value;
      size_t s = begin;
      const auto run = [&](auto width) EK_LAMBDA {
        add_integers<Nibbles, kRows, decltype(width)::value>(tile, v + s * kStripBytes, weights + r,
                                                             o + r * o_ld + s * kStrip, o_ld);
        s += decltype(width)::value;
      };
      while (end - s >= kScoreTiles) run(Int<kScoreTiles>{});
      while (s < end) run(Int<1>{});
    });
  }
}

template <KvKind Kind>
EK_INLINE void add_float_tile(const KvTile& tile, const uint8_t* v, const float* p, size_t rows, float* o,
                              size_t o_ld) {
  by_rows(rows, [&](auto count, size_t r) EK_LAMBDA {
    add_floats<Kind, decltype(count)::value>(tile, v, p + r * kSegment, o + r * o_ld, o_ld);
  });
}

void kv_attend(const KvSegment& s) {
  alignas(64) float p[kSegmentRows * kSegment], sink_scores[kSegmentRows * kSegment];
  bool live[kSegment / kTileTokens];
  for (size_t t = 0; t < s.slots / kTileTokens; ++t) {
    uint64_t any = 0;
    for (size_t r = 0; r < s.rows; ++r) any |= s.visible[r][t];
    live[t] = any != 0;
    if (!live[t]) continue;
    const size_t at = t * kTileTokens;
    const uint8_t* const k = s.k + t * s.k_tile->bytes;
    score(*s.k_tile, k, s.q, s.rows, p + at);
    if (at < s.sinks) score(*s.k_tile, k, s.q_sink, s.rows, sink_scores + at);
  }
  for (size_t r = 0; r < s.rows; ++r) {
    softmax_row(s, r, live, p + r * kSegment, sink_scores + r * kSegment);
    for (size_t d = 0; d < s.v_tile->head_dim; d += kStrip) store_f32(s.o + r * s.o_ld + d, set1_f32(0.0f));
  }
  for (size_t t = 0; t < s.slots / kTileTokens; ++t) {
    if (!live[t]) continue;
    const uint8_t* const v = s.v + t * s.v_tile->bytes;
    const float* const weights = p + t * kTileTokens;
    switch (s.v_tile->kind) {
      case KvKind::kFloat32:
        add_float_tile<KvKind::kFloat32>(*s.v_tile, v, weights, s.rows, s.o, s.o_ld);
        break;
      case KvKind::kFloat16:
        add_float_tile<KvKind::kFloat16>(*s.v_tile, v, weights, s.rows, s.o, s.o_ld);
        break;
      case KvKind::kBfloat16:
        add_float_tile<KvKind::kBfloat16>(*s.v_tile, v, weights, s.rows, s.o, s.o_ld);
        break;
      case KvKind::kInt8:
        add_integer_tile<false>(*s.v_tile, v, weights, s.rows, s.o, s.o_ld);
        break;
      case KvKind::kInt4:
        add_integer_tile<true>(*s.v_tile, v, weights, s.rows, s.o, s.o_ld);
        break;
    }
  }
}

void kv_merge(size_t n, float* m, float* l, float* o, float part_m, float part_l, const float* part_o) {
  if (!(part_l > 0)) return;
  F32 keep_old = set1_f32(0.0f), keep_part = set1_f32(1.0f);
  float top = part_m;
  if (*l > 0) {
    top = *m > part_m ? *m : part_m;
    keep_old = exp_below_zero(set1_f32(*m - top));
    keep_part = exp_below_zero(set1_f32(part_m - top));
  }
  const bool first = !(*l > 0);
  for (size_t i = 0; i < n; i += kStrip) {
    const F32 part = mul_f32(load_f32_n(part_o + i, n - i), keep_part);
    store_f32_n(o + i, first ? part : fma_f32(load_f32_n(o + i, n - i), keep_old, part), n - i);
  }
  float lanes[kStrip];
  store_f32(lanes, fma_f32(set1_f32(*l), keep_old, mul_f32(set1_f32(part_l), keep_part)));
  *l = lanes[0];
  *m = top;
}

void kv_finish(size_t n, float l, float* o) {
  const F32 divisor = set1_f32(l);
  for (size_t i = 0; i < n; i += kStrip) store_f32_n(o + i, div_f32(load_f32_n(o + i, n - i), divisor), n - i);
}

}  // namespace
}  // namespace ek
