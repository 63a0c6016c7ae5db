// The ring cache for C. One lock a cache: callers of several threads wait for each other.
#include <cstring>
#include <memory>
#include <vector>

#include "base/checked.h"
#include "capi/capi.h"
#include "capi/failure.h"
#include "kvcache/shared_cache.h"

struct ek_kv : ek::SharedCache {};

namespace ek {
namespace {

/// Runs body(cache) alone on the cache; it returns a Status.
template <typename Body>
ek_status alone(const char* function, ek_kv* kv, Body&& body) {
  return no_throw(function, [&]() -> ek_status {
    if (kv == nullptr) return fail(EK_ERROR_NULL, "%s: kv is null", function);
    return status_of(function, kv->alone([&] { return body(*kv->cache); }));
  });
}

bool misaligned(const float* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(float) != 0; }

/// The result beside the queries it is made of; `spec` never changes, so no lock is needed to look at it.
ek_status check_attend(const ek_kv& kv, size_t tokens, const float* q, const float* q_sink, const float* out) {
  if (misaligned(q) || misaligned(q_sink)) {
    return fail(EK_ERROR_VALUE, "kv_attend: q and q_sink must start at a multiple of 4 bytes");
  }
  if (misaligned(out)) return fail(EK_ERROR_OUT, "kv_attend: out must start at a multiple of 4 bytes");
  const KvSpec& spec = kv.cache->spec();
  size_t bytes = 0;
  if (!checked_mul(tokens, spec.query_heads * spec.head_dim * sizeof(float), &bytes)) return EK_OK;  // too many tokens
  if (overlap(out, bytes, q, bytes)) return fail(EK_ERROR_OUT, "kv_attend: out overlaps q");
  if (q_sink != nullptr && overlap(out, bytes, q_sink, bytes)) {
    return fail(EK_ERROR_OUT, "kv_attend: out overlaps q_sink");
  }
  return EK_OK;
}

}  // namespace

ek_status capi_kv_create(const ek_kv_spec* spec, ek_kv** kv) {
  return no_throw("kv_create", [&]() -> ek_status {
    if (spec == nullptr || kv == nullptr || spec->formats == nullptr) {
      return fail(EK_ERROR_NULL, "kv_create: spec, its formats or kv is null");
    }
    KvSpec s;
    s.layers = spec->num_layers, s.kv_heads = spec->num_kv_heads, s.query_heads = spec->num_heads;
    s.head_dim = spec->head_dim, s.window = spec->window, s.sinks = spec->sinks;
    s.max_chunk = spec->max_chunk, s.rewind = spec->rewind, s.sequences = spec->num_sequences;
    if (!kv_formats(spec->formats, &s.k, &s.v, &s.query_bits)) {
      return fail(EK_ERROR_VALUE, "kv_create: formats names no pair of formats: %s", spec->formats);
    }
    auto made = std::make_unique<ek_kv>();
    const ek_status status = status_of("kv_create", RingCache::create(s, &made->cache));
    if (status == EK_OK) *kv = made.release();
    return status;
  });
}

void capi_kv_free(ek_kv* kv) { delete kv; }

ek_status capi_kv_bytes(ek_kv* kv, size_t* bytes) {
  if (bytes == nullptr) return fail(EK_ERROR_NULL, "kv_bytes: bytes is null");
  return alone("kv_bytes", kv, [&](RingCache& c) { return *bytes = c.nbytes(), Status(); });
}

ek_status capi_kv_position(ek_kv* kv, size_t sequence, int64_t* position) {
  if (position == nullptr) return fail(EK_ERROR_NULL, "kv_position: position is null");
  return alone("kv_position", kv, [&](RingCache& c) -> Status {
    if (sequence >= c.spec().sequences) return {Code::kValue, "there is no such sequence"};
    *position = c.position(sequence);
    return {};
  });
}

ek_status capi_kv_stage(ek_kv* kv, size_t sequence, size_t tokens) {
  return alone("kv_stage", kv, [&](RingCache& c) { return c.stage(sequence, tokens); });
}

ek_status capi_kv_write(ek_kv* kv, size_t sequence, size_t layer, const float* k, const float* v, int32_t threads) {
  Runtime rt{};
  if (k == nullptr || v == nullptr) return fail(EK_ERROR_NULL, "kv_write: k or v is null");
  if (misaligned(k) || misaligned(v)) {
    return fail(EK_ERROR_VALUE, "kv_write: k and v must start at a multiple of 4 bytes");
  }
  const ek_status status = runtime_of("kv_write", threads, &rt);
  if (status != EK_OK) return status;
  return alone("kv_write", kv, [&](RingCache& c) { return c.write(rt, sequence, layer, k, v); });
}

ek_status capi_kv_attend(ek_kv* kv, size_t sequence, size_t layer, size_t tokens, const float* q, const float* q_sink,
                         float scale, float* out, int32_t threads) {
  Runtime rt{};
  if (q == nullptr || out == nullptr) return fail(EK_ERROR_NULL, "kv_attend: q or out is null");
  ek_status status = runtime_of("kv_attend", threads, &rt);
  if (status == EK_OK && kv != nullptr) status = check_attend(*kv, tokens, q, q_sink, out);
  if (status != EK_OK) return status;
  return alone("kv_attend", kv,
               [&](RingCache& c) { return c.attend(rt, sequence, layer, tokens, q, q_sink, scale, out); });
}

ek_status capi_kv_commit(ek_kv* kv, size_t sequence, size_t accepted) {
  return alone("kv_commit", kv, [&](RingCache& c) { return c.commit(sequence, accepted); });
}

ek_status capi_kv_abort(ek_kv* kv, size_t sequence) {
  return alone("kv_abort", kv, [&](RingCache& c) -> Status {
    if (sequence >= c.spec().sequences) return {Code::kValue, "there is no such sequence"};
    c.abort(sequence);
    return {};
  });
}

ek_status capi_kv_rewind(ek_kv* kv, size_t sequence, size_t tokens) {
  return alone("kv_rewind", kv, [&](RingCache& c) { return c.rewind(sequence, tokens); });
}

ek_status capi_kv_fork(ek_kv* kv, size_t source, size_t target) {
  return alone("kv_fork", kv, [&](RingCache& c) { return c.fork(source, target); });
}

ek_status capi_kv_reset(ek_kv* kv, size_t sequence, int64_t position) {
  return alone("kv_reset", kv, [&](RingCache& c) { return c.reset(sequence, position); });
}

ek_status capi_kv_save(ek_kv* kv, size_t sequence, const void* model, size_t model_bytes, void* to, size_t room,
                       size_t* bytes) {
  if (bytes == nullptr || (model == nullptr && model_bytes != 0) || (to == nullptr && room != 0)) {
    return fail(EK_ERROR_NULL, "kv_save: model, to or bytes is null");
  }
  return alone("kv_save", kv, [&](RingCache& c) -> Status {
    std::vector<uint8_t> state;
    EK_RETURN_IF_ERROR(c.save(sequence, {static_cast<const char*>(model), model_bytes}, &state));
    *bytes = state.size();
    if (state.size() <= room) std::memcpy(to, state.data(), state.size());
    return {};
  });
}

ek_status capi_kv_load(ek_kv* kv, size_t sequence, const void* model, size_t model_bytes, const void* from,
                       size_t bytes) {
  if (from == nullptr || (model == nullptr && model_bytes != 0)) {
    return fail(EK_ERROR_NULL, "kv_load: model or from is null");
  }
  return alone("kv_load", kv, [&](RingCache& c) {
    return c.load(sequence, {static_cast<const char*>(model), model_bytes}, static_cast<const uint8_t*>(from), bytes);
  });
}

}  // namespace ek
