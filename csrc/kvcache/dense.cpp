#include "kvcache/dense.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#include "base/buffer.h"
#include "base/checked.h"
#include "base/fp_env.h"
#include "kvcache/rows.h"
#include "threads/pool.h"

namespace ek {
namespace {

class Dense {
 public:
  Dense(const Runtime& rt, const DenseAttention& a, float* out)
      : rt_(rt),
        a_(a),
        out_(out),
        group_(a.heads / a.kv_heads),
        tiles_(ceil_div(a.keys, kTileTokens)),
        k_tile_(make_tile(KvKind::kFloat32, false, false, a.head_dim, 0)),
        v_tile_(make_tile(KvKind::kFloat32, true, false, a.v_dim, 0)),
        head_bytes_(tiles_ * (k_tile_.bytes + v_tile_.bytes)),
        room_(a.batch * a.kv_heads * head_bytes_),
        visible_(a.batch * a.heads * a.queries * tiles_ * sizeof(uint64_t)) {}

  void run() {
    parallel_for(a_.batch * a_.kv_heads, rt_.threads, [&](size_t task) { prepare(task); });
    const size_t rows = group_ * a_.queries, blocks = ceil_div(rows, kSegmentRows);
    parallel_for(a_.batch * a_.kv_heads * blocks, rt_.threads, [&](size_t task) {
      const size_t row = task % blocks * kSegmentRows;
      attend(task / blocks, row, std::min(rows - row, kSegmentRows));
    });
  }

 private:
  // A head is one KV head of one batch; its rows are the queries of its query heads, one head after the other.
  uint8_t* tiles(size_t head, bool value) {
    return room_.data() + head * head_bytes_ + (value ? tiles_ * k_tile_.bytes : 0);
  }
  uint64_t* visible(size_t head, size_t row) {
    return reinterpret_cast<uint64_t*>(visible_.data()) + (head * group_ * a_.queries + row) * tiles_;
  }
  const float* bias(size_t head, size_t row) const {
    const size_t query_head = head % a_.kv_heads * group_ + row / a_.queries;
    return a_.bias + head / a_.kv_heads * a_.bias_batch + query_head * a_.bias_head + row % a_.queries * a_.bias_query;
  }

  void see(size_t head, size_t row) {
    const size_t batch = head / a_.kv_heads;
    const int64_t position = a_.first[batch] + static_cast<int64_t>(row % a_.queries);
    const int64_t begin = a_.left < 0 ? 0 : std::max<int64_t>(0, position - a_.left);
    const int64_t end = a_.right < 0 ? a_.length[batch] : std::min(a_.length[batch], position + a_.right + 1);
    uint64_t* const bits = visible(head, row);
    const float* const added = a_.bias == nullptr ? nullptr : bias(head, row);
    for (int64_t j = begin; j < end; ++j) {
      const auto key = static_cast<size_t>(j);
      if (added != nullptr && added[key] == -INFINITY) continue;
      bits[key / kTileTokens] |= uint64_t{1} << key % kTileTokens;
    }
  }

  void prepare(size_t head) {
    for (size_t row = 0; row < group_ * a_.queries; ++row) see(head, row);
    KvRow row;
    for (size_t t = 0; t < tiles_; ++t) {
      uint64_t any = 0;
      for (size_t r = 0; r < group_ * a_.queries; ++r) any |= visible(head, r)[t];
      for (size_t lane = 0; lane < kTileTokens; ++lane) {
        if ((any >> lane & 1) == 0) continue;
        const size_t key = head * a_.keys + t * kTileTokens + lane;
        std::memcpy(row.codes, a_.k + key * a_.head_dim, a_.head_dim * sizeof(float));
        put_row(k_tile_, tiles(head, false) + t * k_tile_.bytes, lane, row);
        std::memcpy(row.codes, a_.v + key * a_.v_dim, a_.v_dim * sizeof(float));
        put_row(v_tile_, tiles(head, true) + t * v_tile_.bytes, lane, row);
      }
    }
  }

  void attend(size_t head, size_t row, size_t rows) {
    constexpr size_t kTiles = kSegment / kTileTokens;
    KvQuery queries[kSegmentRows];
    float* outs[kSegmentRows];
    for (size_t r = 0; r < rows; ++r) {
      const size_t at = head * group_ * a_.queries + row + r;
      queries[r] = {a_.q + at * a_.head_dim, nullptr, nullptr, a_.scale};
      outs[r] = out_ + at * a_.v_dim;
    }
    alignas(64) float added[kSegmentRows * kSegment], part_o[kSegmentRows * kMaxHeadDim];
    float m[kSegmentRows] = {}, l[kSegmentRows] = {}, part_m[kSegmentRows], part_l[kSegmentRows];
    const float* biases[kSegmentRows];
    const uint64_t* seen[kSegmentRows];
    for (size_t t = 0; t < tiles_; t += kTiles) {
      const size_t count = std::min(kTiles, tiles_ - t), slot = t * kTileTokens;
      uint64_t any = 0;
      for (size_t r = 0; r < rows; ++r) {
        seen[r] = visible(head, row + r) + t;
        for (size_t i = 0; i < count; ++i) any |= seen[r][i];
        if (a_.bias == nullptr) continue;
        biases[r] = added + r * kSegment;
        const size_t keys = std::min(kSegment, a_.keys - slot);
        std::copy_n(bias(head, row + r) + slot, keys, added + r * kSegment);
        std::fill_n(added + r * kSegment + keys, kSegment - keys, 0.0f);
      }
      if (any == 0) continue;
      KvSegment s{};
      s.k_tile = &k_tile_, s.v_tile = &v_tile_;
      s.k = tiles(head, false) + t * k_tile_.bytes, s.v = tiles(head, true) + t * v_tile_.bytes;
      s.rows = rows, s.slots = count * kTileTokens;
      s.q = s.q_sink = queries;
      s.visible = seen;
      s.softcap = a_.softcap;
      s.bias = a_.bias == nullptr ? nullptr : biases;
      s.m = part_m, s.l = part_l, s.o = part_o, s.o_ld = kMaxHeadDim;
      rt_.kernels->kv_attend(s);
      for (size_t r = 0; r < rows; ++r) {
        rt_.kernels->kv_merge(a_.v_dim, m + r, l + r, outs[r], part_m[r], part_l[r], part_o + r * kMaxHeadDim);
      }
    }
    for (size_t r = 0; r < rows; ++r) {
      if (l[r] > 0) {
        rt_.kernels->kv_finish(a_.v_dim, l[r], outs[r]);
      } else {
        std::fill_n(outs[r], a_.v_dim, 0.0f);
      }
    }
  }

  const Runtime& rt_;
  const DenseAttention& a_;
  float* const out_;
  const size_t group_, tiles_;
  const KvTile k_tile_, v_tile_;
  const size_t head_bytes_;
  AlignedBuffer room_, visible_;
};

}  // namespace

Status attend_dense(const Runtime& rt, const DenseAttention& a, float* out) {
  const FpGuard guard;
  try {
    Dense(rt, a, out).run();
  } catch (const std::bad_alloc&) {
    return {Code::kNoMemory, "attention: no memory for a copy of k and v; attend to fewer heads at a time"};
  }
  return {};
}

}  // namespace ek
