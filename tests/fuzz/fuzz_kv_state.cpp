// A saved cache: load, and go on with what was loaded. The first byte picks the cache; the target puts the checksum
// right, and for most inputs the front (magic, spec, model) and the number of tokens too.
#include <cstring>

#include "common.h"
#include "kv_specs.h"
#include "kv_state.h"

namespace {

using namespace ek;

constexpr char kModel[] = "model";
constexpr size_t kFront = 8 + 17 * 8 + 8 + sizeof kModel - 1, kCounts = 4 * 8;

void mend(RingCache& cache, bool front, std::vector<uint8_t>* state) {
  if (front && state->size() >= kFront + kCounts + 8) {
    std::vector<uint8_t> empty, one;
    fuzz::require(cache.save(0, kModel, &empty).ok(), "an empty cache is saved");
    std::memcpy(state->data(), empty.data(), kFront);
    const KvSpec& s = cache.spec();
    const std::vector<float> zeros(s.kv_heads * s.head_dim);
    fuzz::require(cache.stage(0, 1).ok(), "an empty cache stages");
    for (size_t layer = 0; layer < s.layers; ++layer) {
      fuzz::require(cache.write({&kernels(Isa::kScalar), 1}, 0, layer, zeros.data(), zeros.data()).ok(), "zeros fit");
    }
    fuzz::require(cache.commit(0, 1).ok() && cache.save(0, kModel, &one).ok() && cache.reset(0).ok(), "one token");
    const size_t token = one.size() - empty.size(), tokens = (state->size() - kFront - kCounts - 8) / token;
    state->resize(kFront + kCounts + tokens * token + 8);
    const uint64_t count = tokens;
    std::memcpy(state->data() + kFront + kCounts - 8, &count, 8);
  }
  test::seal(state);
}

void go_on(RingCache& cache, const Runtime& rt) {
  const KvSpec& s = cache.spec();
  std::vector<float> kv(s.max_chunk * s.kv_heads * s.head_dim, 0.5f),
      q(s.max_chunk * s.query_heads * s.head_dim, 0.25f), out(q.size());
  for (const size_t tokens : {s.max_chunk, size_t{1}}) {
    static_cast<void>(cache.attend(rt, 0, 0, tokens, q.data(), nullptr, 0.5f, out.data()));
    if (!cache.stage(0, tokens).ok()) continue;  // at the last positions
    for (size_t layer = 0; layer < s.layers; ++layer) {
      fuzz::require(cache.write(rt, 0, layer, kv.data(), kv.data()).ok(), "a loaded cache is written to");
      static_cast<void>(cache.attend(rt, 0, layer, tokens, q.data(), q.data(), 0.5f, out.data()));
    }
    fuzz::require(cache.commit(0, tokens).ok(), "a loaded cache commits");
    static_cast<void>(cache.rewind(0, tokens));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  if (size == 0) return 0;
  std::unique_ptr<RingCache> cache, other;
  const KvSpec spec = fuzz::kv_spec(bytes[0]);
  fuzz::require(RingCache::create(spec, &cache).ok() && RingCache::create(spec, &other).ok(), "the spec is one");
  std::vector<uint8_t> state(bytes + 1, bytes + size), saved, again;
  mend(*cache, bytes[0] % 128 < 120, &state);
  if (!cache->load(0, kModel, state.data(), state.size()).ok()) return 0;
  ++fuzz::accepted.count;
  fuzz::require(cache->save(0, kModel, &saved).ok(), "what was loaded is saved");
  fuzz::require(other->load(0, kModel, saved.data(), saved.size()).ok(), "what was saved is loaded");
  fuzz::require(other->save(0, kModel, &again).ok() && again == saved, "saving keeps every byte");
  go_on(*cache, {&kernels(available_isas().front()), 1});
  return 0;
}
