#include "decoder/decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>
#include <string>

#include "base/checked.h"
#include "base/fp_env.h"
#include "decoder/rope.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kRotatedPerTask = 32768;

Status check_matrix(const char* name, const Matrix& matrix, size_t n, size_t k) {
  if (matrix.n == n && matrix.k == k && (matrix.data != nullptr || matrix.source != nullptr)) return {};
  return {Code::kValue, std::string("decoder: ") + name + " has shape (" + std::to_string(matrix.n) + ", " +
                            std::to_string(matrix.k) + "); the sizes call for (" + std::to_string(n) + ", " +
                            std::to_string(k) + ")"};
}

Status check_weights(const DecoderSpec& s, const ModelWeights& w) {
  if (w.layers.size() != s.layers) {
    return {Code::kValue,
            "decoder: got weights of " + std::to_string(w.layers.size()) + " layers for " + std::to_string(s.layers)};
  }
  for (const LayerWeights& layer : w.layers) {
    EK_RETURN_IF_ERROR(check_matrix("qkv", layer.qkv, s.q_width() + 2 * s.kv_width(), s.dim));
    EK_RETURN_IF_ERROR(check_matrix("o", layer.o, s.dim, s.q_width()));
    EK_RETURN_IF_ERROR(check_matrix("gate_up", layer.gate_up, 2 * s.hidden, s.dim));
    EK_RETURN_IF_ERROR(check_matrix("down", layer.down, s.dim, s.hidden));
  }
  return check_matrix("head", w.head, s.vocab, s.dim);
}

size_t scratch_bytes(const DecoderSpec& spec, const ModelWeights& w) {
  size_t most = multiply_scratch_bytes(w.head, spec.max_rows);
  for (const LayerWeights& layer : w.layers) {
    for (const Matrix* matrix : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
      most = std::max(most, multiply_scratch_bytes(*matrix, spec.max_rows));
    }
  }
  return most;
}

/// Floats of the parts of the work memory, in the order in which they lie there.
struct Parts {
  size_t x, wide, q, q_sink, k, v, attended, rotations;  // `rotations` comes four times

  explicit Parts(const DecoderSpec& s) {
    const auto floats = [&](size_t columns) { return round_up(s.max_rows * columns, kLine / sizeof(float)); };
    x = floats(s.dim);
    wide = floats(std::max(s.q_width() + 2 * s.kv_width(), s.hidden));
    q = q_sink = attended = floats(s.q_width());
    k = v = floats(s.kv_width());
    rotations = floats(s.head_dim / 2);
  }
  size_t total() const { return x + wide + q + q_sink + k + v + attended + 4 * rotations; }
};

}  // namespace

size_t Decoder::work_bytes(const DecoderSpec& spec, const ModelWeights& weights) {
  return Parts(spec).total() * sizeof(float) + scratch_bytes(spec, weights);
}

Status Decoder::create(const DecoderSpec& spec, ModelWeights weights, const Kernels& kernels,
                       std::unique_ptr<Decoder>* out) {
  EK_RETURN_IF_ERROR(check_weights(spec, weights));
  std::unique_ptr<Decoder> decoder(new Decoder(spec, std::move(weights), kernels));
  const Parts parts(spec);
  try {
    decoder->work_ = AlignedBuffer(work_bytes(spec, decoder->weights_));
  } catch (const std::bad_alloc& error) {
    return {Code::kNoMemory, std::string("decoder: ") + error.what() + "; lower max_chunk"};
  }
  float* at = reinterpret_cast<float*>(decoder->work_.data());
  const auto take = [&](float** part, size_t floats) {
    *part = at;
    at += floats;
  };
  take(&decoder->x_, parts.x);
  take(&decoder->wide_, parts.wide);
  take(&decoder->q_, parts.q);
  take(&decoder->q_sink_, parts.q_sink);
  take(&decoder->k_, parts.k);
  take(&decoder->v_, parts.v);
  take(&decoder->attended_, parts.attended);
  take(&decoder->cosines_, parts.rotations);
  take(&decoder->sines_, parts.rotations);
  take(&decoder->sink_cosines_, parts.rotations);
  take(&decoder->sink_sines_, parts.rotations);
  decoder->scratch_ = reinterpret_cast<uint8_t*>(at);
  *out = std::move(decoder);
  return {};
}

size_t Decoder::weight_bytes() const {
  size_t bytes = weights_.head.bytes();
  for (const LayerWeights& layer : weights_.layers) {
    bytes += layer.qkv.bytes() + layer.o.bytes() + layer.gate_up.bytes() + layer.down.bytes();
  }
  return bytes;
}

Status Decoder::check(const RingCache& cache, const Span* spans, size_t num_spans, const int32_t* tokens,
                      size_t* rows) const {
  const KvSpec& kv = cache.spec();
  if (kv.layers != spec_.layers || kv.kv_heads != spec_.kv_heads || kv.head_dim != spec_.head_dim ||
      kv.query_heads != spec_.heads) {
    return {Code::kValue, "decoder: the cache is for another model: " + std::to_string(kv.layers) + " layers, " +
                              std::to_string(kv.kv_heads) + " heads of " + std::to_string(kv.head_dim) +
                              "; the model has " + std::to_string(spec_.layers) + ", " +
                              std::to_string(spec_.kv_heads) + " and " + std::to_string(spec_.head_dim)};
  }
  *rows = 0;
  for (size_t i = 0; i < num_spans; ++i) {
    const bool known = spans[i].sequence < kv.sequences;
    if (!known || spans[i].tokens == 0 || cache.staged(spans[i].sequence) != 0) {
      const char* fact = !known                 ? " does not exist"
                         : spans[i].tokens == 0 ? " has no token"
                                                : " has an open transaction";
      return {Code::kValue, "decoder: sequence " + std::to_string(spans[i].sequence) + fact};
    }
    for (size_t j = 0; j < i; ++j) {
      if (spans[j].sequence == spans[i].sequence) {
        return {Code::kValue, "decoder: sequence " + std::to_string(spans[i].sequence) + " comes twice in one step"};
      }
    }
    *rows += spans[i].tokens;
  }
  if (*rows == 0 || *rows > spec_.max_rows) {
    return {Code::kValue, "decoder: a step takes 1 to " + std::to_string(spec_.max_rows) + " tokens, got " +
                              std::to_string(*rows) + "; split the prompt"};
  }
  for (size_t i = 0; i < *rows; ++i) {
    if (tokens[i] < 0 || static_cast<size_t>(tokens[i]) >= spec_.vocab) {
      return {Code::kValue, "decoder: token id " + std::to_string(tokens[i]) + " at " + std::to_string(i) +
                                " is out of range; the model has " + std::to_string(spec_.vocab)};
    }
  }
  return {};
}

Status Decoder::forward(int threads, RingCache* cache, const Span* spans, size_t num_spans, const int32_t* tokens,
                        bool every_row, float* logits) {
  const FpGuard guard;
  size_t rows = 0;
  EK_RETURN_IF_ERROR(check(*cache, spans, num_spans, tokens, &rows));
  const Runtime rt{kernels_, threads};
  Status status;
  for (size_t i = 0; i < num_spans && status.ok(); ++i) status = cache->stage(spans[i].sequence, spans[i].tokens);
  if (status.ok()) status = run(rt, cache, spans, num_spans, tokens, rows, every_row, logits);
  for (size_t i = 0; i < num_spans && !status.ok(); ++i) cache->abort(spans[i].sequence);
  return status;
}

Status Decoder::run(const Runtime& rt, RingCache* cache, const Span* spans, size_t num_spans, const int32_t* tokens,
                    size_t rows, bool every_row, float* logits) {
  for (size_t row = 0; row < rows; ++row) {
    const size_t token = static_cast<size_t>(tokens[row]);
    if (!read_embedding(weights_.embedding, token, x_ + row * spec_.dim)) {
      return {Code::kCorrupt, "decoder: the embedding of token " + std::to_string(token) + " holds NaN or infinity"};
    }
  }
  make_rotations(*cache, spans, num_spans);
  const size_t dim = spec_.dim, hidden = spec_.hidden, wide = spec_.q_width() + 2 * spec_.kv_width();
  const auto product = [&](Matrix& w, const float* from, const float* gain, Activation activation, const float* addend,
                           float* to, size_t to_ld) {
    const PinnedMatrix pinned(w);
    multiply(rt, w, {from, w.k, gain, spec_.eps}, rows, activation, addend, to, to_ld, scratch_);
  };
  for (size_t i = 0; i < spec_.layers; ++i) {
    LayerWeights& layer = weights_.layers[i];
    product(layer.qkv, x_, layer.attention_norm, Activation::kClamp, nullptr, wide_, wide);
    split_heads(rt, rows, sinks_apart_);
    EK_RETURN_IF_ERROR(attend(rt, cache, spans, num_spans, i));
    product(layer.o, attended_, nullptr, Activation::kClamp, x_, x_, dim);
    product(layer.gate_up, x_, layer.ffn_norm, Activation::kSwiglu, nullptr, wide_, hidden);
    product(layer.down, wide_, nullptr, Activation::kClamp, x_, x_, dim);
  }
  if (!every_row) {  // the last row of every span, side by side
    size_t end = 0;
    for (size_t i = 0; i < num_spans; ++i) {
      end += spans[i].tokens;
      std::memmove(x_ + i * dim, x_ + (end - 1) * dim, dim * sizeof(float));
    }
    rows = num_spans;
  }
  product(weights_.head, x_, weights_.final_norm, Activation::kClamp, nullptr, logits, spec_.vocab);
  return {};
}

void Decoder::make_rotations(const RingCache& cache, const Span* spans, size_t num_spans) {
  const size_t half = spec_.head_dim / 2;
  const KvSpec& kv = cache.spec();
  const uint64_t* const phases = spec_.rope_phases.data();
  const int64_t last_sink_position = static_cast<int64_t>(kv.sinks + kv.window) - 1;
  sinks_apart_ = false;
  size_t at = 0;
  for (size_t i = 0; i < num_spans; ++i) {
    const int64_t first = cache.position(spans[i].sequence);
    for (size_t t = 0; t < spans[i].tokens; ++t, at += half) {
      const int64_t position = first + static_cast<int64_t>(t);
      rope_row(phases, half, position, spec_.rope_magnitude, cosines_ + at, sines_ + at);
      rope_row(phases, half, std::min(position, last_sink_position), spec_.rope_magnitude, sink_cosines_ + at,
               sink_sines_ + at);
      sinks_apart_ = sinks_apart_ || (kv.sinks > 0 && position > last_sink_position);
    }
  }
}

/// From rows of q, k, v side by side to rotated q and k, and v, each dense.
void Decoder::split_heads(const Runtime& rt, size_t rows, bool sinks) {
  const size_t q_width = spec_.q_width(), kv_width = spec_.kv_width(), wide = q_width + 2 * kv_width;
  const size_t head_dim = spec_.head_dim, half = head_dim / 2;
  const auto rotate = [&](const float* from, size_t heads, const float* cosines, const float* sines, float* to) {
    for (size_t h = 0; h < heads; ++h) {
      kernels_->rotate_row(from + h * head_dim, cosines, sines, half, to + h * head_dim);
    }
  };
  const size_t per_task = std::max<size_t>(1, kRotatedPerTask / wide);
  parallel_for(ceil_div(rows, per_task), rt.threads, [&](size_t task) {
    for (size_t row = task * per_task; row < std::min(rows, (task + 1) * per_task); ++row) {
      const float* const q = wide_ + row * wide;
      const float* const k = q + q_width;
      const float *const c = cosines_ + row * half, *const s = sines_ + row * half;
      rotate(q, spec_.heads, c, s, q_ + row * q_width);
      if (sinks) {
        rotate(q, spec_.heads, sink_cosines_ + row * half, sink_sines_ + row * half, q_sink_ + row * q_width);
      }
      rotate(k, spec_.kv_heads, c, s, k_ + row * kv_width);
      std::memcpy(v_ + row * kv_width, k + kv_width, kv_width * sizeof(float));
    }
  });
}

Status Decoder::attend(const Runtime& rt, RingCache* cache, const Span* spans, size_t num_spans, size_t layer) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(spec_.head_dim));
  const size_t q_width = spec_.q_width(), kv_width = spec_.kv_width();
  size_t row = 0;
  for (size_t i = 0; i < num_spans; row += spans[i].tokens, ++i) {
    const Span& span = spans[i];
    EK_RETURN_IF_ERROR(cache->write(rt, span.sequence, layer, k_ + row * kv_width, v_ + row * kv_width));
    const float* const q_sink = sinks_apart_ ? q_sink_ + row * q_width : nullptr;
    EK_RETURN_IF_ERROR(cache->attend(rt, span.sequence, layer, span.tokens, q_ + row * q_width, q_sink, scale,
                                     attended_ + row * q_width));
  }
  return {};
}

}  // namespace ek
