// Attention over plain arrays of floats, as ONNX's Attention (opsets 23 to 25) defines it: what a model without a cache
// asks for. The cache's kernels, segments and order of sums, so the same bits on every ISA and for any threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/status.h"
#include "kernels/kernels.h"

namespace ek {

/// out = softmax(cap(scale * q k^T) + bias) v, with cap(x) = softcap * tanh(x / softcap). Query i of batch b stands at
/// position p = first[b] + i and sees key j if j < length[b], p - left <= j <= p + right, and its bias is not -inf. A
/// query that sees no key gets zeros; a key that no query sees is never looked at.
struct DenseAttention {
  size_t batch, heads, kv_heads, queries, keys;  // heads: a multiple of kv_heads
  size_t head_dim, v_dim;                        // of q and k, of v and out: 1 .. kMaxHeadDim
  const float *q, *k, *v;                        // (batch, heads or kv_heads, queries or keys, dim)
  float scale, softcap;                          // softcap 0: none
  const int64_t *first, *length;                 // [batch]; length: 0 .. keys
  int64_t left, right;                           // negative: no bound
  const float* bias;                             // null: none. Floats from one batch, head, query to the next; keys are
  size_t bias_batch, bias_head, bias_query;      // side by side
};

/// kNoMemory: there is no room for a copy of K and V.
Status attend_dense(const Runtime& rt, const DenseAttention& a, float* out);

}  // namespace ek
