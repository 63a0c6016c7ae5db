// The decoder without Python: one result on every ISA, for any threads, chunks and neighbors; nothing is allocated.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <deque>
#include <vector>

#include "allocations.h"
#include "decoder/decoder.h"
#include "decoder/quantize_groups.h"
#include "decoder/rope.h"
#include "gemm/pack.h"
#include "machines.h"
#include "moving_weights.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

std::vector<float> random_floats(size_t count, float size) {
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(uniform(-1000, 1000)) * size / 1000.0f;
  return values;
}

/// Packed weights of one matrix, and what they were packed from.
struct Packed {
  AlignedBuffer data;
  std::vector<float> scale;
  Matrix matrix(const Kernels& kernels) const {
    Matrix m;
    m.bits = shape.bits;
    m.n = shape.n;
    m.k = shape.k;
    m.shape4 = shape.shape4;
    m.unit = shape.unit;
    m.data = data.data();
    m.scale = scale.data();
    if (m.bits == 8) {
      const PackedView view{{m.n, 1, m.k}, data.data()};
      m.init = AlignedBuffer(view.shape.padded_n() * sizeof(int32_t));
      make_init(kernels, Sign::kS8, 0, view.colsum(), nullptr, m.n, reinterpret_cast<int32_t*>(m.init.data()));
    }
    return m;
  }
  Matrix shape;
};

Packed pack(int bits, size_t n, size_t k) {
  const std::vector<float> w = random_floats(n * k, 2.0f / std::sqrt(static_cast<float>(k)));
  Packed p;
  p.shape.bits = bits;
  p.shape.n = n;
  p.shape.k = k;
  std::vector<int8_t> codes(n * k);
  if (bits == 32) {
    p.data = AlignedBuffer(packed_f32_bytes(n, k));
    pack_f32(n, k, w.data(), k, reinterpret_cast<float*>(p.data.data()));
  } else if (bits == 8) {
    const PackedShape shape{n, 1, k};
    p.scale.assign(shape.padded_n(), 0.01f);
    for (size_t i = 0; i < n * k; ++i) codes[i] = static_cast<int8_t>(std::nearbyint(w[i] * 60.0f));
    size_t bytes = 0;
    REQUIRE(shape.bytes(&bytes));
    p.data = AlignedBuffer(bytes);
    pack_weights(shape, codes.data(), static_cast<ptrdiff_t>(k), 0, 1, p.data.data());
  } else {
    p.shape.shape4 = {n, k, 32, false};
    const size_t groups = p.shape.shape4.groups();
    std::vector<float> by_row(n * groups), by_group(groups * n);
    quantize_groups(w.data(), n, k, 32, 1, codes.data(), by_row.data());
    for (size_t i = 0; i < n * groups; ++i) by_group[i % groups * n + i / groups] = by_row[i];
    p.shape.unit = 1.0f;
    size_t bytes = 0;
    REQUIRE(p.shape.shape4.bytes(&bytes));
    p.data = AlignedBuffer(bytes);
    pack_weights4(p.shape.shape4, codes.data(), 1, static_cast<ptrdiff_t>(k), by_group.data(), 1.0f, nullptr,
                  p.data.data());
  }
  return p;
}

constexpr size_t kVocab = 53;

struct Model {
  DecoderSpec spec;
  std::vector<float> embedding, norm;
  std::vector<Packed> packed;

  explicit Model(int bits) {
    spec.dim = 48, spec.hidden = 100, spec.layers = 2, spec.heads = 4, spec.kv_heads = 2, spec.head_dim = 16;
    spec.vocab = kVocab, spec.max_rows = 8;
    for (size_t i = 0; i < 8; ++i) spec.rope_phases.push_back(uint64_t{0x28BE60DB9391054A} >> i);
    embedding = random_floats(kVocab * spec.dim, 1.0f);
    norm.assign(spec.dim, 1.0f);
    for (size_t layer = 0; layer < spec.layers; ++layer) {
      packed.push_back(pack(bits, spec.q_width() + 2 * spec.kv_width(), spec.dim));
      packed.push_back(pack(bits, spec.dim, spec.q_width()));
      packed.push_back(pack(bits, 2 * spec.hidden, spec.dim));
      packed.push_back(pack(bits, spec.dim, spec.hidden));
    }
    packed.push_back(pack(bits, kVocab, spec.dim));
  }

  /// Its matrices lie still, or come from `sources`, which then has one for each.
  std::unique_ptr<Decoder> decoder(const Kernels& kernels, std::deque<MovingWeights>* sources = nullptr) const {
    const auto matrix = [&](size_t i) {
      Matrix m = packed[i].matrix(kernels);
      if (sources != nullptr) {
        m.data = nullptr;
        m.source = &(*sources)[i];
      }
      return m;
    };
    ModelWeights w;
    w.embedding = {reinterpret_cast<const uint8_t*>(embedding.data()), spec.dim * 4, kVocab, spec.dim, RowCode::kF32};
    for (size_t layer = 0; layer < spec.layers; ++layer) {
      LayerWeights l;
      l.attention_norm = l.ffn_norm = norm.data();
      l.qkv = matrix(4 * layer);
      l.o = matrix(4 * layer + 1);
      l.gate_up = matrix(4 * layer + 2);
      l.down = matrix(4 * layer + 3);
      w.layers.push_back(std::move(l));
    }
    w.final_norm = norm.data();
    w.head = matrix(packed.size() - 1);
    std::unique_ptr<Decoder> decoder;
    const Status status = Decoder::create(spec, std::move(w), kernels, &decoder);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return decoder;
  }

  std::unique_ptr<RingCache> cache(size_t window) const {
    KvSpec kv;
    kv.layers = spec.layers, kv.kv_heads = spec.kv_heads, kv.head_dim = spec.head_dim, kv.query_heads = spec.heads;
    kv.window = window, kv.sinks = 2, kv.max_chunk = 8, kv.rewind = 4, kv.sequences = 2;
    std::unique_ptr<RingCache> made;
    REQUIRE(RingCache::create(kv, &made).ok());
    return made;
  }
};

/// Logits after each of 40 tokens, past a window of 12, in chunks of so many.
std::vector<float> run(const Model& model, const Kernels& kernels, int threads, size_t chunk,
                       std::deque<MovingWeights>* sources = nullptr) {
  const auto decoder = model.decoder(kernels, sources);
  const auto cache = model.cache(12);
  std::vector<float> logits(40 * kVocab);
  for (size_t at = 0; at < 40; at += chunk) {
    const Span span{0, std::min(chunk, 40 - at)};
    std::vector<int32_t> tokens;
    for (size_t i = 0; i < span.tokens; ++i) tokens.push_back(static_cast<int32_t>((at + i) * 7 % kVocab));
    const Status status =
        decoder->forward(threads, cache.get(), &span, 1, tokens.data(), true, logits.data() + at * kVocab);
    REQUIRE_MESSAGE(status.ok(), status.message());
    REQUIRE(cache->commit(0, span.tokens).ok());
  }
  return logits;
}

}  // namespace

TEST_CASE("a decoder gives one result on every ISA and machine, for any threads and chunks") {
  for (const int bits : {32, 8, 4}) {
    const Model model(bits);
    const std::vector<float> expected = run(model, *tables().front(), 1, 8);
    for (const Kernels* table : tables()) {
      const RunsOn only(*table);
      for (const int threads : {1, 3}) {
        for (const size_t chunk : {size_t{1}, size_t{5}, size_t{8}}) {
          const OnMachine pretended(chunk == 5 ? kMachines[0] : machine());
          const std::vector<float> got = run(model, *table, threads, chunk);
          CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
        }
      }
    }
  }
}

TEST_CASE("a decoder keeps no address of its weights from one product to the next") {
  for (const int bits : {32, 8, 4}) {
    const Model model(bits);
    MovingWeights::Counts counts;
    std::deque<MovingWeights> sources;
    for (const Packed& packed : model.packed) sources.emplace_back(packed.data, &counts);
    const std::vector<float> expected = run(model, *tables().front(), 2, 5);
    const std::vector<float> got = run(model, *tables().front(), 2, 5, &sources);
    CHECK(std::memcmp(got.data(), expected.data(), got.size() * sizeof(float)) == 0);
    CHECK(counts.pins == 8 * model.packed.size());  // of the eight chunks of 40 tokens
    CHECK(counts.pinned_now == 0);
  }
}

TEST_CASE("a decode step allocates nothing, and its neighbors change no bit of it") {
  for (const int bits : {32, 8, 4}) {
    const Model model(bits);
    const auto decoder = model.decoder(*tables().front());
    const auto cache = model.cache(12);
    std::vector<float> both(2 * kVocab), alone(kVocab);
    const Span spans[2] = {{0, 1}, {1, 1}};
    size_t before = 0;
    for (int32_t i = 0; i < 60; ++i) {
      if (i == 2) before = allocations();
      const int32_t tokens[2] = {i % 50, (i * 3 + 1) % 50};
      REQUIRE(decoder->forward(2, cache.get(), spans, 2, tokens, true, both.data()).ok());
      REQUIRE(cache->commit(0, 1).ok());
      REQUIRE(cache->commit(1, 1).ok());
    }
    CHECK(allocations() == before);
    const auto other = model.cache(12);
    for (int32_t i = 0; i < 60; ++i) {
      const int32_t token = (i * 3 + 1) % 50;
      REQUIRE(decoder->forward(1, other.get(), spans + 1, 1, &token, false, alone.data()).ok());
      REQUIRE(other->commit(1, 1).ok());
    }
    CHECK(std::memcmp(alone.data(), both.data() + kVocab, kVocab * sizeof(float)) == 0);
  }
}

TEST_CASE("steps of any height allocate nothing once each has been taken") {
  for (const int bits : {32, 8, 4}) {
    const Model model(bits);
    const auto decoder = model.decoder(*tables().front());
    const auto cache = model.cache(12);
    std::vector<float> logits(8 * kVocab);
    const int32_t tokens[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    size_t before = 0;
    for (size_t call = 0; call < 8 + 200; ++call) {
      if (call == 8) before = allocations();
      const Span span{0, call * 5 % 8 + 1};
      REQUIRE(decoder->forward(2, cache.get(), &span, 1, tokens, true, logits.data()).ok());
      REQUIRE(cache->commit(0, span.tokens).ok());
    }
    CHECK(allocations() == before);
  }
}

TEST_CASE("a decoder refuses bad tokens and sequences, and leaves no transaction open") {
  const Model model(8);
  const auto decoder = model.decoder(*tables().front());
  const auto cache = model.cache(12);
  std::vector<float> logits(8 * kVocab);
  const int32_t good[2] = {1, 2}, bad[2] = {1, static_cast<int32_t>(kVocab)};
  const Span two{0, 2}, unknown{2, 2}, none{0, 0}, twice[2] = {{0, 1}, {0, 1}};
  CHECK(decoder->forward(1, cache.get(), &two, 1, bad, true, logits.data()).code() == Code::kValue);
  CHECK(decoder->forward(1, cache.get(), &unknown, 1, good, true, logits.data()).code() == Code::kValue);
  CHECK(decoder->forward(1, cache.get(), &none, 1, good, true, logits.data()).code() == Code::kValue);
  CHECK(decoder->forward(1, cache.get(), twice, 2, good, true, logits.data()).code() == Code::kValue);
  CHECK(cache->staged(0) == 0);
  CHECK(decoder->forward(1, cache.get(), &two, 1, good, true, logits.data()).ok());
}

TEST_CASE("cosines and sines of phases are those of libm, at positions past 2^31 too") {
  for (int i = 0; i < 4096; ++i) {
    const uint64_t phase = static_cast<uint64_t>(i) * 0x9E3779B97F4A7C15u;
    double cosine = 0, sine = 0;
    cos_sin_of_phase(phase, &cosine, &sine);
    const double angle = std::ldexp(static_cast<double>(phase), -64) * 2.0 * std::acos(-1.0);
    CHECK(std::fabs(cosine - std::cos(angle)) < 2e-15);
    CHECK(std::fabs(sine - std::sin(angle)) < 2e-15);
  }
  const uint64_t quarter = uint64_t{1} << 62;
  float c = 0, s = 0;
  rope_row(&quarter, 1, (int64_t{1} << 40) + 1, 1.0f, &c, &s);
  CHECK(c == 0.0f);
  CHECK(s == 1.0f);
}
