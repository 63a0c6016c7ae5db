// Decoder: one step of a LLaMA-family model, tokens in and logits out, on a RingCache. All memory is taken by create().
//
//   x = embedding rows
//   for each layer:  q, k, v = norm(x) @ qkv      one product; RMS norm and quantization in one pass over a row
//                    x += attention(rope(q), rope(k), v) @ o
//                    x += (silu(gate) * up) @ down      gate and up in one product, column by column
//   logits = norm(x) @ head
//
// A row's bits do not depend on which rows come with it: rows are quantized alone, and every sum has one order. So
// chunked prefill, batches of sequences, threads and ISAs all give the same logits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/buffer.h"
#include "base/status.h"
#include "decoder/embedding.h"
#include "decoder/matrix.h"
#include "kvcache/cache.h"

namespace ek {

struct DecoderSpec {
  size_t dim = 0, hidden = 0, layers = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  float eps = 1e-5f;
  float rope_magnitude = 1.0f;        // of cos and sin
  std::vector<uint64_t> rope_phases;  // [head_dim / 2], in 2^-64 of a turn per position
  size_t max_rows = 256;              // most tokens of one forward()

  size_t q_width() const { return heads * head_dim; }
  size_t kv_width() const { return kv_heads * head_dim; }
};

struct LayerWeights {
  const float* attention_norm = nullptr;  // [dim]
  Matrix qkv;                             // (q_width + 2 kv_width, dim)
  Matrix o;                               // (dim, q_width)
  const float* ffn_norm = nullptr;        // [dim]
  Matrix gate_up;                         // (2 hidden, dim): gate in even columns, up in odd ones
  Matrix down;                            // (dim, hidden)
};

struct ModelWeights {
  EmbeddingTable embedding;
  std::vector<LayerWeights> layers;
  const float* final_norm = nullptr;  // [dim]
  Matrix head;                        // (vocab, dim)
};

/// Tokens of one sequence, which continue where the cache stands.
struct Span {
  size_t sequence, tokens;
};

class Decoder {
 public:
  /// Takes the weights' views, which the caller keeps alive. kValue: a matrix has another shape than the spec says.
  static Status create(const DecoderSpec& spec, ModelWeights weights, const Kernels& kernels,
                       std::unique_ptr<Decoder>* out);
  /// Bytes that create() takes for the rows on their way through the layers.
  static size_t work_bytes(const DecoderSpec& spec, const ModelWeights& weights);

  const DecoderSpec& spec() const { return spec_; }
  /// Bytes of weights that a step reads: what bounds its speed. Embedding rows are not counted.
  size_t weight_bytes() const;

  /// Runs the spans' tokens, span after span, and leaves one transaction open in the cache for each: commit or abort
  /// them. Logits: (tokens, vocab) when `every_row`, else one row for the last token of each span. After an error no
  /// transaction is open.
  Status forward(int threads, RingCache* cache, const Span* spans, size_t num_spans, const int32_t* tokens,
                 bool every_row, float* logits);

 private:
  Decoder(const DecoderSpec& spec, ModelWeights weights, const Kernels& kernels)
      : spec_(spec), weights_(std::move(weights)), kernels_(&kernels) {}

  Status check(const RingCache& cache, const Span* spans, size_t num_spans, const int32_t* tokens, size_t* rows) const;
  Status run(const Runtime& rt, RingCache* cache, const Span* spans, size_t num_spans, const int32_t* tokens,
             size_t rows, bool every_row, float* logits);
  void make_rotations(const RingCache& cache, const Span* spans, size_t num_spans);
  void split_heads(const Runtime& rt, size_t rows, bool sinks);
  Status attend(const Runtime& rt, RingCache* cache, const Span* spans, size_t num_spans, size_t layer);

  DecoderSpec spec_;
  ModelWeights weights_;
  const Kernels* kernels_;
  AlignedBuffer work_;
  float *x_ = nullptr, *wide_ = nullptr;  // (rows, dim); (rows, q_width + 2 kv_width) or (rows, hidden)
  float *q_ = nullptr, *q_sink_ = nullptr, *k_ = nullptr, *v_ = nullptr, *attended_ = nullptr;
  float *cosines_ = nullptr, *sines_ = nullptr, *sink_cosines_ = nullptr, *sink_sines_ = nullptr;
  uint8_t* scratch_ = nullptr;
  bool sinks_apart_ = false;  // some row stands past the window: the sinks meet a query of their own
};

}  // namespace ek
