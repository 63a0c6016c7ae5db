// A sequence as bytes, little-endian: magic, fields of the spec, the model's tag, positions, rows of the slots that
// hold one, a checksum of it all.
#include <cstring>
#include <string>

#include "base/checked.h"
#include "kvcache/cache.h"
#include "kvcache/rows.h"

namespace ek {
namespace {

constexpr char kMagic[8] = {'E', 'K', 'K', 'V', '0', '0', '0', '1'};

struct Field {
  const char* name;
  uint64_t value;
};
constexpr size_t kFields = 17;

/// What two caches must share before one may continue the other.
void fields_of(const KvSpec& s, Field (&out)[kFields]) {
  const auto kind = [](const KvFormat& f) { return static_cast<uint64_t>(f.kind); };
  const Field fields[kFields] = {{"num_layers", s.layers},
                                 {"num_kv_heads", s.kv_heads},
                                 {"head_dim", s.head_dim},
                                 {"num_heads", s.query_heads},
                                 {"window", s.window},
                                 {"sinks", s.sinks},
                                 {"max_chunk", s.max_chunk},
                                 {"rewind", s.rewind},
                                 {"query_bits", static_cast<uint64_t>(s.query_bits)},
                                 {"k's format", kind(s.k)},
                                 {"k.group", s.k.group},
                                 {"k.asymmetric", s.k.asymmetric},
                                 {"k.rotated", s.k.rotated},
                                 {"v's format", kind(s.v)},
                                 {"v.group", s.v.group},
                                 {"v.asymmetric", s.v.asymmetric},
                                 {"v.rotated", s.v.rotated}};
  std::memcpy(out, fields, sizeof(fields));
}

/// Every step is a bijection of the sum so far: one altered word always shows.
uint64_t checksum(const uint8_t* bytes, size_t size) {
  uint64_t sum = 0x9E3779B97F4A7C15u ^ size;
  for (size_t i = 0; i < size; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, bytes + i, size - i < 8 ? size - i : 8);
    sum = (sum ^ word) * 0xD6E8FEB86659FD93u;
    sum ^= sum >> 32;
  }
  return sum;
}

void append(std::vector<uint8_t>* to, const void* from, size_t size) {
  const auto bytes = static_cast<const uint8_t*>(from);
  to->insert(to->end(), bytes, bytes + size);
}
void append_u64(std::vector<uint8_t>* to, uint64_t value) { append(to, &value, sizeof(value)); }

/// Reads forward and never past the end.
struct Reader {
  const uint8_t* at;
  size_t left;

  bool take(void* to, size_t size) {
    if (size > left) return false;
    std::memcpy(to, at, size);
    at += size, left -= size;
    return true;
  }
  bool u64(uint64_t* to) { return take(to, sizeof(*to)); }
};

Status corrupt(const std::string& what) { return {Code::kCorrupt, "RingKVCache.load: " + what}; }

}  // namespace

Status RingCache::save(size_t sequence, std::string_view model, std::vector<uint8_t>* out) const {
  EK_RETURN_IF_ERROR(check("save", sequence, false));
  const Sequence& s = sequences_[sequence];
  size_t occupied = 0;
  for (size_t slot = 0; slot < spec_.slots(); ++slot) occupied += s.slot_pos[slot] >= 0;
  const size_t k_bytes = row_bytes(k_tile_), v_bytes = row_bytes(v_tile_), heads = spec_.layers * spec_.kv_heads;
  out->clear();
  out->reserve(512 + model.size() + occupied * (sizeof(int64_t) + heads * (k_bytes + v_bytes)));
  append(out, kMagic, sizeof(kMagic));
  Field fields[kFields];
  fields_of(spec_, fields);
  for (const Field& f : fields) append_u64(out, f.value);
  append_u64(out, model.size());
  append(out, model.data(), model.size());
  for (const int64_t p : {s.position, s.begin, s.oldest}) append_u64(out, static_cast<uint64_t>(p));
  append_u64(out, occupied);
  for (size_t slot = 0; slot < spec_.slots(); ++slot) {
    if (s.slot_pos[slot] >= 0) append_u64(out, static_cast<uint64_t>(s.slot_pos[slot]));
  }
  KvRow row;
  for (size_t i = 0; i < 2 * heads; ++i) {
    const bool value = i % 2 != 0;
    const KvTile& tile = value ? v_tile_ : k_tile_;
    const uint8_t* const base = tiles(value, sequence, i / 2 / spec_.kv_heads, i / 2 % spec_.kv_heads);
    for (size_t slot = 0; slot < spec_.slots(); ++slot) {
      if (s.slot_pos[slot] < 0) continue;
      get_row(tile, base + slot / kTileTokens * tile.bytes, slot % kTileTokens, &row);
      out->resize(out->size() + row_bytes(tile));
      pack_row(tile, row, out->data() + out->size() - row_bytes(tile));
    }
  }
  append_u64(out, checksum(out->data(), out->size()));
  return {};
}

Status RingCache::load(size_t sequence, std::string_view model, const uint8_t* bytes, size_t size) {
  EK_RETURN_IF_ERROR(check("load", sequence, false));
  char magic[sizeof(kMagic)];
  if (size < sizeof(kMagic) + sizeof(uint64_t)) return corrupt("the state is truncated");
  uint64_t sum;
  std::memcpy(&sum, bytes + size - sizeof(sum), sizeof(sum));
  Reader in{bytes, size - sizeof(sum)};
  if (!in.take(magic, sizeof(magic)) || std::memcmp(magic, kMagic, sizeof(magic)) != 0) {
    return corrupt("this is not a saved cache, or one of another version");
  }
  if (checksum(bytes, size - sizeof(sum)) != sum) return corrupt("the checksum does not match; bytes were altered");
  Field fields[kFields];
  fields_of(spec_, fields);
  for (const Field& f : fields) {
    uint64_t value;
    if (!in.u64(&value)) return corrupt("the state is truncated");
    if (value != f.value) {
      return corrupt(std::string(f.name) + " is " + std::to_string(value) + " in the state and " +
                     std::to_string(f.value) + " in this cache");
    }
  }
  uint64_t length;
  if (!in.u64(&length) || length > in.left) return corrupt("the state is truncated");
  if (length != model.size() || (length != 0 && std::memcmp(in.at, model.data(), length) != 0)) {
    return corrupt("the state belongs to another model");
  }
  in.at += length, in.left -= length;
  uint64_t position, begin, oldest, occupied;
  if (!in.u64(&position) || !in.u64(&begin) || !in.u64(&oldest) || !in.u64(&occupied)) {
    return corrupt("the state is truncated");
  }
  const size_t heads = spec_.layers * spec_.kv_heads;
  const size_t token_bytes = sizeof(int64_t) + heads * (row_bytes(k_tile_) + row_bytes(v_tile_));
  if (begin > oldest || oldest > position || position > static_cast<uint64_t>(INT64_MAX) || occupied > spec_.slots() ||
      in.left != occupied * token_bytes) {
    return corrupt("the state's counts contradict each other");
  }
  // All is checked before the sequence is touched. A position must belong to its slot, slots ascending.
  size_t last = 0;
  for (uint64_t i = 0; i < occupied; ++i) {
    int64_t p;
    std::memcpy(&p, in.at + i * sizeof(p), sizeof(p));
    if (p < static_cast<int64_t>(begin) || p >= static_cast<int64_t>(position)) return corrupt("a position is wrong");
    const size_t slot = slot_of(p);
    if (i > 0 && slot <= last) return corrupt("positions are out of order");
    last = slot;
  }
  KvRow row;
  const uint8_t* at = in.at + occupied * sizeof(int64_t);
  for (size_t i = 0; i < 2 * heads; ++i) {
    const KvTile& tile = i % 2 != 0 ? v_tile_ : k_tile_;
    for (uint64_t token = 0; token < occupied; ++token, at += row_bytes(tile)) {
      unpack_row(tile, at, &row);
      if (!is_storable(tile, row)) return corrupt("a value or a scale is not finite, or a scale is negative");
    }
  }
  EK_RETURN_IF_ERROR(reset(sequence, static_cast<int64_t>(begin)));
  Sequence& s = sequences_[sequence];
  s.position = static_cast<int64_t>(position);
  s.oldest = static_cast<int64_t>(oldest);
  for (uint64_t i = 0; i < occupied; ++i) {
    int64_t p = 0;
    in.take(&p, sizeof(p));
    s.slot_pos[slot_of(p)] = p;
  }
  for (size_t i = 0; i < 2 * heads; ++i) {
    const bool value = i % 2 != 0;
    const KvTile& tile = value ? v_tile_ : k_tile_;
    uint8_t* const base = tiles(value, sequence, i / 2 / spec_.kv_heads, i / 2 % spec_.kv_heads);
    for (size_t slot = 0; slot < spec_.slots(); ++slot) {
      if (s.slot_pos[slot] < 0) continue;
      unpack_row(tile, in.at, &row);
      in.at += row_bytes(tile);
      put_row(tile, base + slot / kTileTokens * tile.bytes, slot % kTileTokens, row);
    }
  }
  return {};
}

}  // namespace ek
