#include "kvcache/cache.h"

#include <cstring>
#include <new>
#include <string>

#include "base/checked.h"
#include "base/fp_env.h"
#include "base/memory_limit.h"
#include "cpu/machine.h"
#include "kvcache/rows.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kSlotsPerWord = 64;  // of a mask; a tile has as many
static_assert(kSlotsPerWord == kTileTokens);

struct Named {
  std::string_view name;
  KvFormat k, v;
  int query_bits;
};
constexpr Named kFormats[] = {
    {"float32", {KvKind::kFloat32, 0, false, false}, {KvKind::kFloat32, 0, false, false}, 8},
    {"float16", {KvKind::kFloat16, 0, false, false}, {KvKind::kFloat16, 0, false, false}, 8},
    {"bfloat16", {KvKind::kBfloat16, 0, false, false}, {KvKind::kBfloat16, 0, false, false}, 8},
    {"int8", {KvKind::kInt8, 0, false, false}, {KvKind::kInt8, 0, false, false}, 8},
    {"k8v4", {KvKind::kInt8, 0, false, false}, {KvKind::kInt4, 64, true, false}, 8},
    {"int4", {KvKind::kInt4, 32, true, true}, {KvKind::kInt4, 32, true, false}, 8},
    {"article", {KvKind::kInt4, 64, false, false}, {KvKind::kInt8, 128, false, false}, 4},
};

Status refuse(const std::string& what) { return {Code::kValue, "RingKVCache: " + what}; }

Status check_format(const char* name, const KvFormat& f, size_t head_dim, bool value) {
  const std::string field(name);
  if (f.group != 0 && f.group != 32 && f.group != 64 && f.group != 128) {
    return refuse(field + ".group must be 0 (head_dim, at most 128), 32, 64 or 128, got " + std::to_string(f.group));
  }
  if (is_float(f.kind) && (f.group != 0 || f.asymmetric || f.rotated)) {
    return refuse(field + " is a float format, which has no groups, offsets or rotation; leave them out");
  }
  if (f.rotated && value) return refuse("v cannot be rotated: only K meets the query, which undoes the rotation");
  if (f.rotated && (head_dim & (head_dim - 1)) != 0) {
    return refuse(field + " can be rotated only if head_dim is a power of two, got " + std::to_string(head_dim));
  }
  return {};
}

Status check_spec(const KvSpec& s) {
  constexpr size_t kMost = size_t{1} << 40;
  const struct {
    const char* name;
    size_t value, least;
  } counts[] = {{"num_layers", s.layers, 1},     {"num_kv_heads", s.kv_heads, 1},
                {"window", s.window, 1},         {"max_chunk", s.max_chunk, 1},
                {"sinks", s.sinks, 0},           {"rewind", s.rewind, 0},
                {"num_heads", s.query_heads, 1}, {"num_sequences", s.sequences, 1}};
  for (const auto& c : counts) {
    if (c.value < c.least || c.value > kMost) {
      return refuse(std::string(c.name) + " must lie in [" + std::to_string(c.least) + ", 2^40], got " +
                    std::to_string(c.value));
    }
  }
  if (s.head_dim == 0 || s.head_dim % 8 != 0 || s.head_dim > kMaxHeadDim) {
    return refuse("head_dim must be a multiple of 8, at most 512, got " + std::to_string(s.head_dim));
  }
  if (s.query_heads % s.kv_heads != 0) {
    return refuse("num_heads must be a multiple of num_kv_heads (" + std::to_string(s.kv_heads) + "), got " +
                  std::to_string(s.query_heads));
  }
  if (s.query_bits != 8 && s.query_bits != 4) {
    return refuse("query_bits must be 8 or 4, got " + std::to_string(s.query_bits));
  }
  EK_RETURN_IF_ERROR(check_format("k", s.k, s.head_dim, false));
  return check_format("v", s.v, s.head_dim, true);
}

/// Bytes of the cache's buffers; false: more than size_t holds.
struct Plan {
  size_t k = 0, v = 0, state = 0, partials = 0;

  static bool product(size_t* out, std::initializer_list<size_t> factors) {
    *out = 1;
    for (const size_t f : factors) {
      if (!checked_mul(*out, f, out)) return false;
    }
    return true;
  }
  bool make(const KvSpec& s, const KvTile& k_tile, const KvTile& v_tile) {
    const size_t words = ceil_div(s.slots(), kSlotsPerWord), segments = ceil_div(s.slots(), kSegment);
    size_t masks = 0, positions = 0;
    const size_t marks = round_up(s.layers, 64);
    if (!product(&k, {s.sequences, s.layers, s.kv_heads, words, k_tile.bytes}) ||
        !product(&v, {s.sequences, s.layers, s.kv_heads, words, v_tile.bytes}) ||
        !product(&masks, {s.sequences, s.max_chunk, words, sizeof(uint64_t)}) ||
        !product(&positions, {s.sequences, words, kSlotsPerWord, sizeof(int64_t)}) ||
        !product(&state, {s.sequences, marks}) ||
        !product(&partials, {segments, s.query_heads, round_up(s.head_dim, 16) + 16, sizeof(float)})) {
      return false;
    }
    return checked_add(state, masks, &state) && checked_add(state, positions, &state);
  }
  bool total(size_t* out) const {
    return checked_add(k, v, out) && checked_add(*out, state, out) && checked_add(*out, partials, out);
  }
};

KvTile tile_of(const KvSpec& spec, bool value) {
  const KvFormat& f = value ? spec.v : spec.k;
  return make_tile(f.kind, value, f.asymmetric, spec.head_dim, f.group);
}

}  // namespace

bool kv_formats(std::string_view name, KvFormat* k, KvFormat* v, int* query_bits) {
  for (const Named& f : kFormats) {
    if (f.name != name) continue;
    *k = f.k, *v = f.v, *query_bits = f.query_bits;
    return true;
  }
  return false;
}

RingCache::RingCache(const KvSpec& spec)
    : spec_(spec),
      k_tile_(tile_of(spec, false)),
      v_tile_(tile_of(spec, true)),
      words_(ceil_div(spec.slots(), kSlotsPerWord)),
      segments_(ceil_div(spec.slots(), kSegment)),
      k_head_bytes_(words_ * k_tile_.bytes),
      v_head_bytes_(words_ * v_tile_.bytes) {}

Status RingCache::plan_bytes(const KvSpec& spec, size_t* out) {
  EK_RETURN_IF_ERROR(check_spec(spec));
  Plan plan;
  if (!plan.make(spec, tile_of(spec, false), tile_of(spec, true)) || !plan.total(out)) {
    return refuse("the cache would be larger than memory can be; lower window, num_layers or num_sequences");
  }
  return {};
}

Status RingCache::create(const KvSpec& spec, std::unique_ptr<RingCache>* out) {
  size_t bytes = 0;
  EK_RETURN_IF_ERROR(plan_bytes(spec, &bytes));
  try {
    require_memory(bytes);
    std::unique_ptr<RingCache> cache(new RingCache(spec));
    Plan plan;
    if (!plan.make(spec, cache->k_tile_, cache->v_tile_)) return refuse("too large");
    cache->k_ = AlignedBuffer(plan.k);
    cache->v_ = AlignedBuffer(plan.v);
    cache->state_ = AlignedBuffer(plan.state);
    cache->partials_ = AlignedBuffer(plan.partials);
    cache->nbytes_ = bytes;
    cache->sequences_.resize(spec.sequences);
    uint8_t* at = cache->state_.data();
    for (Sequence& s : cache->sequences_) {
      s.slot_pos = reinterpret_cast<int64_t*>(at);
      at += cache->words_ * kSlotsPerWord * sizeof(int64_t);
      s.visible = reinterpret_cast<uint64_t*>(at);
      at += spec.max_chunk * cache->words_ * sizeof(uint64_t);
      s.written = at;
      at += round_up(spec.layers, 64);
      for (size_t i = 0; i < cache->words_ * kSlotsPerWord; ++i) s.slot_pos[i] = -1;
    }
    *out = std::move(cache);
  } catch (const std::bad_alloc&) {
    return {Code::kNoMemory, "RingKVCache: no memory for " + std::to_string(bytes) +
                                 " bytes; lower window, max_chunk or " + "num_sequences, or store fewer bits"};
  }
  return {};
}

size_t RingCache::bytes_per_token() const {
  return (k_tile_.bytes + v_tile_.bytes) / kTileTokens * spec_.kv_heads * spec_.layers;
}

size_t RingCache::slot_of(int64_t position) const {
  const auto p = static_cast<uint64_t>(position);
  return p < spec_.sinks ? p : spec_.sinks + (p - spec_.sinks) % spec_.ring();
}

uint8_t* RingCache::tiles(bool value, size_t sequence, size_t layer, size_t head) const {
  const size_t index = (sequence * spec_.layers + layer) * spec_.kv_heads + head;
  // The cache hands out its own memory; constness ends where the tiles begin.
  const uint8_t* const at = value ? v_.data() + index * v_head_bytes_ : k_.data() + index * k_head_bytes_;
  return const_cast<uint8_t*>(at);
}

Status RingCache::check(const char* function, size_t sequence, bool open) const {
  if (sequence >= spec_.sequences) {
    return {Code::kValue, std::string("RingKVCache.") + function + ": sequence must be below num_sequences (" +
                              std::to_string(spec_.sequences) + "), got " + std::to_string(sequence)};
  }
  const bool is_open = sequences_[sequence].staged > 0;
  if (open == is_open) return {};
  return {Code::kValue, std::string("RingKVCache.") + function +
                            (open ? ": no transaction is open on sequence " : ": a transaction is open on sequence ") +
                            std::to_string(sequence) + (open ? "; call stage first" : "; commit or abort it first")};
}

void RingCache::forget(Sequence& s, int64_t first, int64_t last) {
  const auto slots = static_cast<int64_t>(spec_.slots());
  if (last - first >= slots) {
    for (int64_t i = 0; i < slots; ++i) s.slot_pos[i] = s.slot_pos[i] >= first ? -1 : s.slot_pos[i];
  } else {
    for (int64_t p = first; p < last; ++p) {
      int64_t& there = s.slot_pos[slot_of(p)];
      if (there == p) there = -1;
    }
  }
  s.mask_first = -1;
}

bool RingCache::lost(const Sequence& s, int64_t first, int64_t end) const {
  const auto sinks = static_cast<int64_t>(spec_.sinks);
  first = first > sinks ? first : sinks;
  first = first > s.begin ? first : s.begin;
  return first < end && first < s.oldest;
}

Status RingCache::stage(size_t sequence, size_t tokens) {
  EK_RETURN_IF_ERROR(check("stage", sequence, false));
  if (tokens == 0 || tokens > spec_.max_chunk) {
    return {Code::kValue, "RingKVCache.stage: tokens must lie in [1, max_chunk = " + std::to_string(spec_.max_chunk) +
                              "], got " + std::to_string(tokens)};
  }
  Sequence& s = sequences_[sequence];
  if (s.position > INT64_MAX - static_cast<int64_t>(tokens)) {
    return {Code::kValue, "RingKVCache.stage: positions end at 2^63 - 1"};
  }
  const int64_t end = s.position + static_cast<int64_t>(tokens);
  for (int64_t p = s.position; p < end; ++p) s.slot_pos[slot_of(p)] = p;
  s.staged = tokens;
  const int64_t oldest = end - static_cast<int64_t>(spec_.ring());
  s.oldest = s.oldest > oldest ? s.oldest : oldest;
  s.mask_first = -1;
  std::memset(s.written, 0, spec_.layers);
  return {};
}

bool RingCache::store(const Runtime& rt, bool value, size_t sequence, size_t layer, size_t head, const float* x) {
  const Sequence& s = sequences_[sequence];
  const KvTile& tile = value ? v_tile_ : k_tile_;
  const KvFormat& format = value ? spec_.v : spec_.k;
  uint8_t* const base = tiles(value, sequence, layer, head);
  KvRow row;
  float rotated[kMaxHeadDim];
  KvQuantize q{nullptr, spec_.head_dim, tile.group, tile.kind, tile.asymmetric, row.codes, row.scale, row.offset};
  for (size_t t = 0; t < s.staged; ++t) {
    q.x = x + (t * spec_.kv_heads + head) * spec_.head_dim;
    if (format.rotated) {
      std::memcpy(rotated, q.x, spec_.head_dim * sizeof(float));
      rotate(rotated, spec_.head_dim);
      q.x = rotated;
    }
    if (!rt.kernels->kv_quantize(q)) return false;
    const size_t slot = slot_of(s.position + static_cast<int64_t>(t));
    put_row(tile, base + slot / kTileTokens * tile.bytes, slot % kTileTokens, row);
  }
  return true;
}

Status RingCache::write(const Runtime& rt, size_t sequence, size_t layer, const float* k, const float* v) {
  EK_RETURN_IF_ERROR(check("write", sequence, true));
  if (layer >= spec_.layers) {
    return {Code::kValue, "RingKVCache.write: layer must be below num_layers (" + std::to_string(spec_.layers) +
                              "), got " + std::to_string(layer)};
  }
  Sequence& s = sequences_[sequence];
  const FpGuard guard;
  constexpr double kValuesPerUs = 1800;  // that one core quantizes, of keys and of values
  const double us = static_cast<double>(s.staged * spec_.kv_heads * spec_.head_dim) / kValuesPerUs;
  const int threads = worth_a_thread(us) ? rt.threads : 1;
  uint8_t bad[2] = {0, 0};
  parallel_for(2 * spec_.kv_heads, threads, [&](size_t task) {
    const bool value = task >= spec_.kv_heads;
    const size_t head = value ? task - spec_.kv_heads : task;
    if (!store(rt, value, sequence, layer, head, value ? v : k)) __atomic_store_n(&bad[value], 1, __ATOMIC_RELAXED);
  });
  if (bad[0] != 0 || bad[1] != 0) {
    abort(sequence);
    return {Code::kValue, std::string("RingKVCache.write: ") + (bad[0] != 0 ? "k" : "v") + " of layer " +
                              std::to_string(layer) +
                              " has a value that is not finite or that its format cannot hold; nothing was stored and "
                              "the transaction is closed"};
  }
  s.written[layer] = 1;
  return {};
}

Status RingCache::commit(size_t sequence, size_t accepted) {
  EK_RETURN_IF_ERROR(check("commit", sequence, true));
  Sequence& s = sequences_[sequence];
  if (accepted > s.staged) {
    return {Code::kValue, "RingKVCache.commit: " + std::to_string(accepted) + " tokens were accepted but " +
                              std::to_string(s.staged) + " were staged"};
  }
  for (size_t layer = 0; accepted > 0 && layer < spec_.layers; ++layer) {
    if (s.written[layer] == 0) {
      return {Code::kValue, "RingKVCache.commit: layer " + std::to_string(layer) + " was not written"};
    }
  }
  const int64_t end = s.position + static_cast<int64_t>(s.staged);
  s.position += static_cast<int64_t>(accepted);
  s.staged = 0;
  if (s.position < end) forget(s, s.position, end);
  return {};
}

void RingCache::abort(size_t sequence) {
  if (sequence >= spec_.sequences) return;
  Sequence& s = sequences_[sequence];
  if (s.staged == 0) return;
  forget(s, s.position, s.position + static_cast<int64_t>(s.staged));
  s.staged = 0;
}

RewindLimit RingCache::rewind_limit(size_t sequence, size_t tokens) const {
  const Sequence& s = sequences_[sequence];
  const auto sinks = static_cast<int64_t>(spec_.sinks);
  int64_t needed = s.position - static_cast<int64_t>(tokens) - static_cast<int64_t>(spec_.window) + 1;
  needed = needed > s.begin ? needed : s.begin;
  return {needed > sinks ? needed : sinks, s.oldest > sinks ? s.oldest : sinks};
}

Status RingCache::rewind(size_t sequence, size_t tokens) {
  EK_RETURN_IF_ERROR(check("rewind", sequence, false));
  Sequence& s = sequences_[sequence];
  const auto committed = static_cast<uint64_t>(s.position - s.begin);
  if (tokens > committed) {
    return {Code::kRewind, "RingKVCache.rewind: " + std::to_string(tokens) +
                               " tokens cannot be taken back, there are " + std::to_string(committed)};
  }
  const int64_t next = s.position - static_cast<int64_t>(tokens);
  if (lost(s, next - static_cast<int64_t>(spec_.window) + 1, next)) {
    const RewindLimit limit = rewind_limit(sequence, tokens);
    return {Code::kRewind, "RingKVCache.rewind: the next token would see position " + std::to_string(limit.needed) +
                               ", and the oldest one still here is " + std::to_string(limit.oldest_resident) +
                               "; a larger rewind= keeps more"};
  }
  forget(s, next, s.position);
  s.position = next;
  s.oldest = s.oldest < next ? s.oldest : next;
  return {};
}

Status RingCache::fork(size_t from, size_t to) {
  EK_RETURN_IF_ERROR(check("fork", from, false));
  EK_RETURN_IF_ERROR(check("fork", to, false));
  if (from == to) return {};
  const size_t heads = spec_.layers * spec_.kv_heads;
  std::memcpy(tiles(false, to, 0, 0), tiles(false, from, 0, 0), heads * k_head_bytes_);
  std::memcpy(tiles(true, to, 0, 0), tiles(true, from, 0, 0), heads * v_head_bytes_);
  Sequence& s = sequences_[to];
  const Sequence& source = sequences_[from];
  std::memcpy(s.slot_pos, source.slot_pos, spec_.slots() * sizeof(int64_t));
  s.position = source.position, s.begin = source.begin, s.oldest = source.oldest;
  s.mask_first = -1;
  return {};
}

Status RingCache::reset(size_t sequence, int64_t position) {
  if (position < 0) {
    return {Code::kValue, "RingKVCache.reset: position must not be negative, got " + std::to_string(position)};
  }
  abort(sequence);
  EK_RETURN_IF_ERROR(check("reset", sequence, false));
  Sequence& s = sequences_[sequence];
  for (size_t i = 0; i < spec_.slots(); ++i) s.slot_pos[i] = -1;
  s.position = s.begin = s.oldest = position;
  s.mask_first = -1;
  return {};
}

Status RingCache::read(size_t sequence, size_t layer, bool value, int64_t position, float* out) const {
  const std::string name = value ? "RingKVCache.values: " : "RingKVCache.keys: ";
  if (sequence >= spec_.sequences || layer >= spec_.layers) {
    return {Code::kValue, name + "layer must be below num_layers (" + std::to_string(spec_.layers) + "), got " +
                              std::to_string(layer)};
  }
  const size_t slot = slot_of(position);
  if (position < 0 || sequences_[sequence].slot_pos[slot] != position) {
    return {Code::kValue, name + "position " + std::to_string(position) + " is not resident"};
  }
  const KvTile& tile = value ? v_tile_ : k_tile_;
  KvRow row;
  for (size_t head = 0; head < spec_.kv_heads; ++head, out += spec_.head_dim) {
    get_row(tile, tiles(value, sequence, layer, head) + slot / kTileTokens * tile.bytes, slot % kTileTokens, &row);
    dequantize_row(tile, row, out);
    if (!value && spec_.k.rotated) rotate(out, spec_.head_dim);
  }
  return {};
}

}  // namespace ek
