// Tiles of the cache and the row of one token in them (layout: kernels/kv.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kv.h"

namespace ek {

/// One token's vector of one head: codes (a byte each, or values of a float type), then scales and offsets.
struct KvRow {
  alignas(64) uint8_t codes[kMaxHeadDim * sizeof(float)];
  uint16_t scale[kMaxHeadDim / 32], offset[kMaxHeadDim / 32];
};

/// Geometry of a tile; group as in KvFormat, 0 resolved.
KvTile make_tile(KvKind kind, bool value, bool asymmetric, size_t head_dim, size_t group);

void put_row(const KvTile& tile, uint8_t* at, size_t lane, const KvRow& row);
void get_row(const KvTile& tile, const uint8_t* at, size_t lane, KvRow* row);

/// A row as save() writes it: codes without padding, two int4 to a byte, scales, offsets.
size_t row_bytes(const KvTile& tile);
void pack_row(const KvTile& tile, const KvRow& row, uint8_t* bytes);
void unpack_row(const KvTile& tile, const uint8_t* bytes, KvRow* row);

/// Whether a write may leave this row: what is not finite and what is not a scale are refused there (kv_store.inl).
bool is_storable(const KvTile& tile, const KvRow& row);

/// The values that a row stands for.
void dequantize_row(const KvTile& tile, const KvRow& row, float* x);

/// x = H x / sqrt(n), H the Hadamard matrix of n = 2^i rows: its own inverse.
void rotate(float* x, size_t n);

}  // namespace ek
