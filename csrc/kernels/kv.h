// How the kernels see a cache of keys and values: tiles of codes, and what one segment of attention is given.
//
// One KV head's K is a run of tiles of 64 tokens, and so is its V. A dot product has tokens (K) or values of head_dim
// (V) in its lanes, and nothing is ever reduced across them. Any one token can be overwritten alone.
//   K  float  [4][head_dim][16 tokens]               V  float  [strips][64 tokens][16 dims]
//      int8   [4][head_dim/4][16 tokens][4 dims]        int8   [strips][16 quads][16 dims][4 tokens]
//      int4   [4][head_dim/8][16 tokens][4 bytes]       int4   [strips][8 octets][16 dims][4 bytes]
// A byte of int4 holds values i and i + 4 of its octet in its low and high half. After the codes come float16 scales,
// [groups][64 tokens], and offsets of the same shape. Codes are unsigned, the zero of symmetric ones at 128 or 8; V's
// int8 are stored with 128 taken off, as int8.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"

namespace ek {

enum class KvKind : uint8_t { kFloat32, kFloat16, kBfloat16, kInt8, kInt4 };

inline constexpr size_t kTileTokens = 64;
inline constexpr size_t kRunTokens = 16;   // of K, side by side in the lanes
inline constexpr size_t kSegment = 256;    // slots that are summed before they join the running total
inline constexpr size_t kSegmentRows = 8;  // queries of one kernel call
inline constexpr size_t kMaxHeadDim = 512;
inline constexpr size_t kMaxKvGroup = 128;

inline bool is_float(KvKind kind) { return kind < KvKind::kInt8; }

struct KvTile {
  KvKind kind = KvKind::kInt8;
  bool value = false;  // of V
  bool asymmetric = false;
  size_t head_dim = 0, group = 0;  // the last group may be short
  size_t run = 0;                  // K: bytes of the codes of kRunTokens tokens
  size_t scales = 0, offsets = 0;  // bytes from the start of the tile
  size_t bytes = 0;

  size_t groups() const { return is_float(kind) ? 0 : (head_dim + group - 1) / group; }
  /// What a code stands for when it is zero.
  int32_t zero() const { return asymmetric ? 0 : kind == KvKind::kInt8 ? 128 : 8; }
};

/// One token's vector to codes: n values in groups. Floats: as themselves in their type.
///   symmetric   scale = f16(max|x| / L), L = 127 or 7;  code = clamp(rne(x / scale), -L, L) + zero
///   asymmetric  scale = f16((max - min) / L), L = 255 or 15; offset = f16(min); code = clamp(rne((x - offset) /
///   scale),
///               0, L)
struct KvQuantize {
  const float* x;
  size_t n, group;
  KvKind kind;
  bool asymmetric;
  uint8_t* codes;            // [n] bytes, or n values of a float type
  uint16_t *scale, *offset;  // [groups] float16
};

/// One query of one head, in the form that K's kind asks for.
struct KvQuery {
  const float* x;       // [head_dim]; float kinds
  const int8_t* codes;  // [head_dim]; integer kinds, as are sums
  const int32_t* sums;  // [groups] of codes
  float factor;         // of the dot product: what the codes' scale and the softmax's make together
};

/// softmax(q K) V over `slots` slots for `rows` queries, unnormalized: o = sum of exp(score - m) v, l = sum of
/// exp(score - m), m = max score. Slots that a row's bits do not name are as good as absent. A row that sees none
/// gets l = 0 and no defined o and m.
struct KvSegment {
  const KvTile *k_tile, *v_tile;
  const uint8_t *k, *v;   // first tiles
  size_t rows, slots;     // slots: a multiple of kTileTokens, at most kSegment
  const KvQuery* q;       // [rows]
  const KvQuery* q_sink;  // [rows]; scores the first `sinks` slots
  size_t sinks;
  const uint64_t* const* visible;  // [rows][slots / 64]
  float softcap;                   // c > 0: scores become c * tanh(score / c); 0: they stay
  const float* const* bias;        // [rows][slots], then added to the scores; null: nothing is
  float *m, *l, *o;                // [rows]; o: rows of o_ld floats, head_dim rounded up to 16 of them written
  size_t o_ld;
};

struct KvKernels {
  // False: a value that the format cannot hold; nothing may then be used.
  EK_KERNEL bool (*kv_quantize)(const KvQuantize& row);
  // n values of a query: scale = max|x| / levels (1 where that is 0), codes = rne(x / scale). False: not finite.
  EK_KERNEL bool (*kv_quantize_query)(const float* x, size_t n, float levels, int8_t* codes, float* scale);
  EK_KERNEL void (*kv_attend)(const KvSegment& segment);
  // Joins a segment's row to the running one (l = 0: empty): both scaled by exp of what their m is below the larger.
  EK_KERNEL void (*kv_merge)(size_t n, float* m, float* l, float* o, float part_m, float part_l, const float* part_o);
  EK_KERNEL void (*kv_finish)(size_t n, float l, float* o);  // o /= l
};

#define EK_KV_KERNELS(X) X(kv_quantize) X(kv_quantize_query) X(kv_attend) X(kv_merge) X(kv_finish)

}  // namespace ek
