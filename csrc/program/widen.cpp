#include "program/widen.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/fp_env.h"
#include "base/memory_limit.h"
#include "threads/pool.h"
#include "weights/nibbles.h"

namespace ek {
namespace {

/// Halves, and lines of 4-bit codes, that one task widens.
constexpr size_t kHalvesAtOnce = size_t{1} << 18, kLinesAtOnce = size_t{1} << 14;

void widen_halves(const BlobDef& blob, const uint8_t* halves, const Runtime& rt, AlignedBuffer& room) {
  const MapFormat format{blob.stored == Storage::kF16 ? MapType::kF16 : MapType::kBf16, {}};
  const size_t items = room.size() / sizeof(float), tasks = ceil_div(items, kHalvesAtOnce);
  parallel_for(tasks, tasks > 1 ? rt.threads : 1, [&](size_t task) {
    const size_t at = task * kHalvesAtOnce;
    rt.kernels->map_load(halves + at * sizeof(uint16_t), format, std::min(kHalvesAtOnce, items - at),
                         reinterpret_cast<float*>(room.data()) + at);
  });
}

void widen_codes(const BlobDef& blob, const uint8_t* stored, const Runtime& rt, AlignedBuffer& room) {
  const size_t lines = blob.codes / kLineOfCodes, tasks = ceil_div(lines, kLinesAtOnce);
  for (uint32_t part = 0; part < blob.parts; ++part) {
    uint8_t* const to = room.data() + part * (blob.codes + blob.sum_bytes());
    const uint8_t* const from = stored + part * lines * kLineOfNibbles;
    parallel_for(tasks, tasks > 1 ? rt.threads : 1, [&](size_t task) {
      const size_t at = task * kLinesAtOnce;
      widen_nibbles(from + at * kLineOfNibbles, std::min(kLinesAtOnce, lines - at), to + at * kLineOfCodes);
    });
    std::memcpy(to + blob.codes, stored + blob.nibble_bytes() + part * blob.sum_bytes(), blob.sum_bytes());
  }
}

}  // namespace

Widened widen_blobs(const ProgramIndex& index, WeightSource& weights, const Runtime& rt, uint64_t taken) {
  Widened rooms(index.blobs.size());
  for (const BlobDef& blob : index.blobs) taken += blob.stored == Storage::kWhole ? 0 : held_bytes(blob);
  require_memory(taken);
  const FpGuard guard;  // subnormal halves are multiplied into their place
  for (size_t id = 0; id < rooms.size(); ++id) {
    const BlobDef& blob = index.blobs[id];
    if (blob.stored == Storage::kWhole) continue;
    rooms[id] = AlignedBuffer(static_cast<size_t>(held_bytes(blob)));
    const uint8_t* const stored = weights.pin(blob.offset, blob.bytes);
    (blob.stored == Storage::kInt4 ? widen_codes : widen_halves)(blob, stored, rt, rooms[id]);
    weights.unpin(blob.offset, blob.bytes);
  }
  return rooms;
}

}  // namespace ek
