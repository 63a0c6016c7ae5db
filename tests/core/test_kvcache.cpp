// The ring cache without Python: every format on every ISA has one result, against guard pages; nothing is allocated.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <vector>

#include "allocations.h"
#include "guarded.h"
#include "kv_state.h"
#include "kvcache/cache.h"
#include "kvcache/dense.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

constexpr size_t kTokens = 150;

KvSpec small(const char* formats, size_t head_dim) {
  KvSpec s;
  s.layers = 2, s.kv_heads = 2, s.query_heads = 6, s.head_dim = head_dim;
  s.window = 90, s.sinks = 3, s.max_chunk = 7, s.rewind = 4;
  REQUIRE(kv_formats(formats, &s.k, &s.v, &s.query_bits));
  return s;
}

struct Text {
  std::vector<float> k, v, q;
};
Text random_text(const KvSpec& s) {
  Text t;
  for (size_t i = 0; i < kTokens * s.kv_heads * s.head_dim; ++i) {
    t.k.push_back(uniform(-2.0f, 2.0f));
    t.v.push_back(uniform(-2.0f, 2.0f));
  }
  for (size_t i = 0; i < kTokens * s.query_heads * s.head_dim; ++i) t.q.push_back(uniform(-3.0f, 3.0f));
  return t;
}

std::unique_ptr<RingCache> make(const KvSpec& spec) {
  std::unique_ptr<RingCache> cache;
  const Status status = RingCache::create(spec, &cache);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return cache;
}

/// Two layers, the second with V and K exchanged; attention of all tokens of the second.
std::vector<float> run(RingCache& cache, const Runtime& rt, const Text& text, size_t chunk) {
  const KvSpec& s = cache.spec();
  const size_t kv = s.kv_heads * s.head_dim, qs = s.query_heads * s.head_dim;
  std::vector<float> all;
  for (size_t t = 0; t < kTokens; t += chunk) {
    const size_t n = std::min(chunk, kTokens - t);
    Guarded<float> k(n * kv), v(n * kv), q(n * qs), q_sink(n * qs), out(n * qs);
    std::copy_n(text.k.begin() + static_cast<ptrdiff_t>(t * kv), n * kv, k.data());
    std::copy_n(text.v.begin() + static_cast<ptrdiff_t>(t * kv), n * kv, v.data());
    for (size_t i = 0; i < n * qs; ++i) q.data()[i] = text.q[t * qs + i], q_sink.data()[i] = -text.q[t * qs + i];
    REQUIRE(cache.stage(0, n).ok());
    REQUIRE(cache.write(rt, 0, 0, k.data(), v.data()).ok());
    REQUIRE(cache.write(rt, 0, 1, v.data(), k.data()).ok());
    const Status status = cache.attend(rt, 0, 1, n, q.data(), q_sink.data(), 0.25f, out.data());
    REQUIRE_MESSAGE(status.ok(), status.message());
    REQUIRE(cache.commit(0, n).ok());
    for (const float x : out.values()) all.push_back(x);
  }
  return all;
}

}  // namespace

TEST_CASE("every format of the cache has one result for all ISAs, chunks and threads") {
  for (const char* formats : {"float32", "float16", "bfloat16", "int8", "k8v4", "int4", "article"}) {
    for (const size_t head_dim : Sizes{8, 64}) {
      CAPTURE(formats);
      CAPTURE(head_dim);
      const KvSpec spec = small(formats, head_dim);
      const Text text = random_text(spec);
      std::vector<float> first;
      for (const Kernels* table : tables()) {
        const RunsOn only(*table);
        CAPTURE(isa_name(table->isa));
        for (const int threads : {1, 5}) {
          const auto cache = make(spec);
          const std::vector<float> out = run(*cache, {table, threads}, text, threads == 1 ? 7 : 1);
          if (first.empty()) first = out;
          size_t wrong = 0;
          for (size_t i = 0; i < out.size(); ++i) wrong += std::memcmp(&out[i], &first[i], sizeof(float)) != 0;
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("float32 attention equals the sum that it stands for") {
  const KvSpec spec = small("float32", 8);
  const Text text = random_text(spec);
  const auto cache = make(spec);
  const std::vector<float> out = run(*cache, {&kernels(Isa::kScalar), 1}, text, 5);
  const size_t kv = spec.kv_heads * spec.head_dim;
  for (size_t t = 0; t < kTokens; ++t) {
    for (size_t head = 0; head < spec.query_heads; ++head) {
      const float* const q = text.q.data() + (t * spec.query_heads + head) * spec.head_dim;
      double total = 0, sum[8] = {};
      for (size_t p = 0; p <= t; ++p) {
        if (p >= spec.sinks && t - p >= spec.window) continue;
        const size_t at = p * kv + head / 3 * spec.head_dim;
        double score = 0;
        for (size_t d = 0; d < 8; ++d) score += static_cast<double>(q[d]) * static_cast<double>(text.v[at + d]);
        const double weight = std::exp((p < spec.sinks ? -0.25 : 0.25) * score);
        total += weight;
        for (size_t d = 0; d < 8; ++d) sum[d] += weight * static_cast<double>(text.k[at + d]);
      }
      for (size_t d = 0; d < 8; ++d) {
        const double got = static_cast<double>(out[(t * spec.query_heads + head) * spec.head_dim + d]);
        CHECK(std::fabs(got - sum[d] / total) < 1e-5);
      }
    }
  }
}

TEST_CASE("a decode step of the cache allocates nothing") {
  const KvSpec spec = small("k8v4", 64);
  const Text text = random_text(spec);
  for (const int threads : {1, 4}) {
    const auto cache = make(spec);
    const Runtime rt{tables().front(), threads};
    std::vector<float> out(spec.query_heads * spec.head_dim);
    const auto step = [&] {
      bool ok = cache->stage(0, 1).ok();
      for (size_t layer = 0; layer < spec.layers; ++layer) {
        ok = ok && cache->write(rt, 0, layer, text.k.data(), text.v.data()).ok();
        ok = ok && cache->attend(rt, 0, layer, 1, text.q.data(), text.q.data(), 0.125f, out.data()).ok();
      }
      return ok && cache->commit(0, 1).ok();
    };
    REQUIRE(step());
    const size_t before = allocations();
    bool ok = true;
    for (size_t i = 0; i < 200; ++i) ok = step() && ok;
    const size_t after = allocations();
    CHECK(ok);
    CHECK(after == before);
  }
}

TEST_CASE("a state that was cut or altered is refused by the cache and changes nothing") {
  const KvSpec spec = small("int4", 8);
  const Text text = random_text(spec);
  const auto cache = make(spec);
  run(*cache, {tables().front(), 1}, text, 7);
  std::vector<uint8_t> state, again;
  REQUIRE(cache->save(0, "model", &state).ok());
  for (size_t cut = 0; cut < state.size(); cut += 7) {
    const std::vector<uint8_t> part(state.begin(), state.begin() + static_cast<ptrdiff_t>(cut));
    CHECK(cache->load(0, "model", part.data(), part.size()).code() == Code::kCorrupt);
    std::vector<uint8_t> altered = state;
    altered[cut] ^= 0x10;
    CHECK(cache->load(0, "model", altered.data(), altered.size()).code() == Code::kCorrupt);
  }
  REQUIRE(cache->save(0, "model", &again).ok());
  CHECK(again == state);
  CHECK(cache->load(0, "model", state.data(), state.size()).ok());
}

TEST_CASE("a state with a value that no write may leave is refused, also under its right checksum") {
  for (const char* formats : {"float32", "float16", "bfloat16", "int8", "k8v4", "int4", "article"}) {
    const KvSpec spec = small(formats, 8);
    const auto cache = make(spec);
    run(*cache, {tables().front(), 1}, random_text(spec), 7);
    std::vector<uint8_t> state, again;
    REQUIRE(cache->save(0, "model", &state).ok());
    // A row ends with the upper half of a float, a scale or, after it, an offset.
    const auto altered = [&](uint16_t bits, size_t from_end) {
      std::vector<uint8_t> other = state;
      const size_t at = other.size() - 8 - 2 * from_end;
      other.at(at) = static_cast<uint8_t>(bits & 255);
      other.at(at + 1) = static_cast<uint8_t>(bits >> 8);
      seal(&other);
      return cache->load(0, "model", other.data(), other.size()).code();
    };
    const bool scaled = spec.v.kind >= KvKind::kInt8;
    const size_t last = scaled && spec.v.asymmetric ? 2 : 1;
    for (size_t from_end = 1; from_end <= last; ++from_end) {
      for (const int bits : {0x7FFF, 0xFFFF, spec.v.kind == KvKind::kFloat16 || scaled ? 0x7C00 : 0x7F80}) {
        CAPTURE(formats);
        CAPTURE(bits);
        CHECK(altered(static_cast<uint16_t>(bits), from_end) == Code::kCorrupt);
      }
    }
    if (scaled) CHECK(altered(0x8001, last) == Code::kCorrupt);  // a scale below zero
    REQUIRE(cache->save(0, "model", &again).ok());
    CHECK(again == state);
    CHECK(altered(0x3C00, last) == Code::kOk);  // the alteration alone is not what is refused
  }
}

TEST_CASE("the cache refuses to count past the last position") {
  const auto cache = make(small("int8", 8));
  REQUIRE(cache->reset(0, INT64_MAX).ok());
  CHECK(cache->stage(0, 1).code() == Code::kValue);
  REQUIRE(cache->reset(0, INT64_MAX - 2).ok());
  CHECK(cache->stage(0, 3).code() == Code::kValue);
  CHECK(cache->stage(0, 2).ok());
}

TEST_CASE("attention over plain arrays has one result for all ISAs and threads") {
  const size_t heads = 4, queries = 5, keys = 300, dim = 24;
  std::vector<float> q(heads * queries * dim), k(heads / 2 * keys * dim), v(k.size()), first(q.size());
  for (auto* values : {&q, &k, &v}) {
    for (float& x : *values) x = uniform(-2.0f, 2.0f);
  }
  const int64_t start = 295, length = 300;
  const DenseAttention attention{1,    heads, heads / 2, queries, keys, dim, dim,     q.data(), k.data(), v.data(),
                                 0.2f, 0.0f,  &start,    &length, -1,   0,   nullptr, 0,        0,        0};
  REQUIRE(attend_dense({tables().front(), 1}, attention, first.data()).ok());
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const int threads : {1, 3}) {
      std::vector<float> out(q.size());
      REQUIRE(attend_dense({table, threads}, attention, out.data()).ok());
      CHECK(std::memcmp(out.data(), first.data(), out.size() * sizeof(float)) == 0);
    }
  }
}
