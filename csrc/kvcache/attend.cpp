// Attention on the cache: segments of kSegment slots, joined in slot order. Whether one thread walks all segments of
// some queries or threads share the segments of one query, the same numbers are added in the same order.
#include <atomic>
#include <cstring>
#include <string>

#include "base/checked.h"
#include "base/fp_env.h"
#include "kvcache/cache.h"
#include "kvcache/rows.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kTaskRows = 32;  // queries of one task: what of K and V they share stays in the caches
constexpr size_t kMostGroups = kMaxHeadDim / 32;

}  // namespace

struct RingCache::Attend {
  const Runtime& rt;
  size_t sequence, layer, tokens;
  const float *q, *q_sink;  // q_sink may be null
  float scale;
  float* out;
  const uint64_t* visible;  // of the first query
  size_t group;             // query heads of a KV head

  /// Queries of one KV head are rows: token by token, within it head by head.
  size_t offset(size_t head, size_t row, size_t kv_heads, size_t head_dim) const {
    return (row / group * group * kv_heads + head * group + row % group) * head_dim;
  }
};

struct RingCache::Queries {
  alignas(64) int8_t codes[2][kTaskRows * kMaxHeadDim];  // the query's, then the sink query's
  int32_t sums[2][kTaskRows * kMostGroups];
  KvQuery of[2][kTaskRows];

  /// False: a query that is not finite.
  bool make(const RingCache& cache, const Attend& a, size_t head, size_t row, size_t rows) {
    const KvSpec& spec = cache.spec_;
    const KvTile& tile = cache.k_tile_;
    const size_t dim = spec.head_dim;
    float rotated[kMaxHeadDim];
    for (size_t which = 0; which < (a.q_sink != nullptr ? 2 : 1); ++which) {
      for (size_t r = 0; r < rows; ++r) {
        const float* x = (which == 0 ? a.q : a.q_sink) + a.offset(head, row + r, spec.kv_heads, dim);
        int8_t* const to = codes[which] + r * kMaxHeadDim;
        int32_t* const sum = sums[which] + r * kMostGroups;
        KvQuery& query = of[which][r];
        query = {x, to, sum, a.scale};
        if (spec.k.rotated) {
          std::memcpy(rotated, x, dim * sizeof(float));
          rotate(rotated, dim);
          x = rotated;
        }
        float step = 1.0f;
        if (!a.rt.kernels->kv_quantize_query(x, dim, spec.query_bits == 8 ? 127.0f : 7.0f, to, &step)) return false;
        if (is_float(tile.kind)) continue;
        query.factor = step * a.scale;
        for (size_t g = 0, d = 0; d < dim; ++g) {
          sum[g] = 0;
          for (const size_t end = d + tile.group < dim ? d + tile.group : dim; d < end; ++d) sum[g] += to[d];
        }
      }
    }
    return true;
  }
};

bool RingCache::run_segment(const Attend& a, size_t head, size_t segment, size_t row, size_t rows,
                            const Queries& queries, size_t first, float* m, float* l, float* o, size_t o_ld) const {
  const size_t slot = segment * kSegment, word = slot / 64;
  const size_t words = words_ - word < kSegment / 64 ? words_ - word : kSegment / 64;
  const uint64_t* visible[kSegmentRows];
  uint64_t any = 0;
  for (size_t r = 0; r < rows; ++r) {
    visible[r] = a.visible + (row + r) / a.group * words_ + word;
    for (size_t w = 0; w < words; ++w) any |= visible[r][w];
  }
  if (any == 0) return false;
  KvSegment s{};
  s.k_tile = &k_tile_;
  s.v_tile = &v_tile_;
  s.k = tiles(false, a.sequence, a.layer, head) + slot / kTileTokens * k_tile_.bytes;
  s.v = tiles(true, a.sequence, a.layer, head) + slot / kTileTokens * v_tile_.bytes;
  s.rows = rows;
  s.slots = words * 64;
  s.q = queries.of[0] + first;
  s.q_sink = a.q_sink != nullptr ? queries.of[1] + first : s.q;
  s.sinks = a.q_sink != nullptr && spec_.sinks > slot ? spec_.sinks - slot : 0;
  s.visible = visible;
  s.m = m, s.l = l, s.o = o, s.o_ld = o_ld;
  a.rt.kernels->kv_attend(s);
  return true;
}

bool RingCache::attend_rows(const Attend& a, size_t head, size_t row, size_t rows) const {
  const size_t dim = spec_.head_dim;
  const Kernels& kernels = *a.rt.kernels;
  Queries queries;
  if (!queries.make(*this, a, head, row, rows)) return false;
  float m[kTaskRows], l[kTaskRows] = {};
  alignas(64) float part_o[kSegmentRows * kMaxHeadDim];
  float part_m[kSegmentRows], part_l[kSegmentRows];
  for (size_t segment = 0; segment < segments_; ++segment) {
    for (size_t r = 0; r < rows; r += kSegmentRows) {
      const size_t count = rows - r < kSegmentRows ? rows - r : kSegmentRows;
      if (!run_segment(a, head, segment, row + r, count, queries, r, part_m, part_l, part_o, kMaxHeadDim)) continue;
      for (size_t i = 0; i < count; ++i) {
        float* const o = a.out + a.offset(head, row + r + i, spec_.kv_heads, dim);
        kernels.kv_merge(dim, m + r + i, l + r + i, o, part_m[i], part_l[i], part_o + i * kMaxHeadDim);
      }
    }
  }
  for (size_t r = 0; r < rows; ++r) {
    kernels.kv_finish(dim, l[r], a.out + a.offset(head, row + r, spec_.kv_heads, dim));
  }
  return true;
}

bool RingCache::attend_split(const Attend& a, size_t token) const {
  const size_t dim = spec_.head_dim, o_ld = round_up(dim, 16), ld = o_ld + 16;
  const auto partials = reinterpret_cast<float*>(const_cast<uint8_t*>(partials_.data()));
  std::atomic<bool> finite{true};
  // A partial is o, then m and l; row r of a KV head is query head head * group + r.
  parallel_for(spec_.kv_heads * segments_, a.rt.threads, [&](size_t task) {
    const size_t head = task / segments_, segment = task % segments_;
    float part_m[kSegmentRows], part_l[kSegmentRows];
    Queries queries;
    for (size_t r = 0; r < a.group; r += kSegmentRows) {
      const size_t count = a.group - r < kSegmentRows ? a.group - r : kSegmentRows;
      if (!queries.make(*this, a, head, token * a.group + r, count)) return finite.store(false);
      float* const to = partials + (segment * spec_.query_heads + head * a.group + r) * ld;
      const bool seen = run_segment(a, head, segment, token * a.group + r, count, queries, 0, part_m, part_l, to, ld);
      for (size_t i = 0; i < count; ++i) {
        to[i * ld + o_ld] = seen ? part_m[i] : 0.0f;
        to[i * ld + o_ld + 1] = seen ? part_l[i] : 0.0f;
      }
    }
  });
  if (!finite) return false;
  for (size_t head = 0; head < spec_.query_heads; ++head) {
    float* const o = a.out + (token * spec_.query_heads + head) * dim;
    float m = 0, l = 0;
    for (size_t segment = 0; segment < segments_; ++segment) {
      const float* const part = partials + (segment * spec_.query_heads + head) * ld;
      a.rt.kernels->kv_merge(dim, &m, &l, o, part[o_ld], part[o_ld + 1], part);
    }
    a.rt.kernels->kv_finish(dim, l, o);
  }
  return true;
}

void RingCache::make_masks(Sequence& s, int64_t first, size_t tokens) {
  if (s.mask_first == first && s.mask_tokens >= tokens) return;
  const auto window = static_cast<int64_t>(spec_.window);
  for (size_t t = 0; t < tokens; ++t) {
    const int64_t query = first + static_cast<int64_t>(t);
    for (size_t word = 0; word < words_; ++word) {
      uint64_t bits = 0;
      for (size_t i = 0; i < 64; ++i) {
        const size_t slot = word * 64 + i;
        const int64_t p = s.slot_pos[slot];
        const bool seen = p >= 0 && p <= query && (slot < spec_.sinks || query - p < window);
        bits |= static_cast<uint64_t>(seen) << i;
      }
      s.visible[t * words_ + word] = bits;
    }
  }
  s.mask_first = first;
  s.mask_tokens = tokens;
}

Status RingCache::attend(const Runtime& rt, size_t sequence, size_t layer, size_t tokens, const float* q,
                         const float* q_sink, float scale, float* out) {
  if (sequence >= spec_.sequences) return check("attend", sequence, true);
  if (layer >= spec_.layers) {
    return {Code::kValue, std::string("RingKVCache.attend: layer must be below num_layers (") +
                              std::to_string(spec_.layers) + "), got " + std::to_string(layer)};
  }
  Sequence& s = sequences_[sequence];
  int64_t first = s.position;
  if (s.staged > 0) {
    if (tokens != s.staged) {
      return {Code::kValue, std::string("RingKVCache.attend: q has ") + std::to_string(tokens) + " tokens but " +
                                std::to_string(s.staged) + " are staged"};
    }
    if (s.written[layer] == 0) {
      return {Code::kValue, std::string("RingKVCache.attend: layer ") + std::to_string(layer) +
                                " was not written in this transaction"};
    }
  } else {
    const int64_t committed = s.position - s.begin;
    const int64_t most =
        committed < static_cast<int64_t>(spec_.max_chunk) ? committed : static_cast<int64_t>(spec_.max_chunk);
    if (tokens == 0 || tokens > static_cast<size_t>(most)) {
      return {Code::kValue, std::string("RingKVCache.attend: q must have 1 to ") + std::to_string(most) +
                                " tokens (the committed ones, at most max_chunk), got " + std::to_string(tokens)};
    }
    first -= static_cast<int64_t>(tokens);
    if (lost(s, first - static_cast<int64_t>(spec_.window) + 1, first + 1)) {
      return {Code::kValue, std::string("RingKVCache.attend: the first query would see position ") +
                                std::to_string(rewind_limit(sequence, tokens).needed) +
                                ", and the oldest one still here is " + std::to_string(s.oldest) +
                                "; ask for fewer tokens"};
    }
  }
  const size_t bytes = tokens * spec_.query_heads * spec_.head_dim * sizeof(float);
  if (overlap(out, bytes, q, bytes) || (q_sink != nullptr && overlap(out, bytes, q_sink, bytes))) {
    return {Code::kValue, "RingKVCache.attend: out shares memory with a query; pass another array"};
  }
  const FpGuard guard;
  make_masks(s, first, tokens);
  const Attend a{rt, sequence, layer, tokens, q, q_sink, scale, out, s.visible, spec_.query_heads / spec_.kv_heads};
  const size_t rows = tokens * a.group, blocks = ceil_div(rows, kTaskRows), tasks = spec_.kv_heads * blocks;
  std::atomic<bool> finite{true};
  if (rt.threads > 1 && tasks < static_cast<size_t>(rt.threads)) {
    for (size_t t = 0; t < tokens; ++t) {
      if (!attend_split(a, t)) finite = false;
    }
  } else {
    parallel_for(tasks, rt.threads, [&](size_t task) {
      const size_t row = task % blocks * kTaskRows;
      if (!attend_rows(a, task / blocks, row, rows - row < kTaskRows ? rows - row : kTaskRows)) finite = false;
    });
  }
  if (!finite) {
    return {Code::kValue, std::string("RingKVCache.attend: ") + (q_sink != nullptr ? "q or q_sink" : "q") +
                              " of layer " + std::to_string(layer) +
                              " has a value that is not finite; out is not defined"};
  }
  return {};
}

}  // namespace ek
