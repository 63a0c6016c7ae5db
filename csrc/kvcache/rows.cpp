#include "kvcache/rows.h"

#include <cmath>
#include <cstring>

#include "base/checked.h"

namespace ek {
namespace {

constexpr size_t kStripDims = 16;

size_t item_bytes(KvKind kind) { return kind == KvKind::kFloat32 ? 4 : is_float(kind) ? 2 : 1; }

/// Where the byte with value d of a lane lies; for floats, its first byte.
size_t place(const KvTile& tile, size_t lane, size_t d) {
  const size_t strip = d / kStripDims, dim = d % kStripDims;
  if (!tile.value && lane >= kRunTokens) return lane / kRunTokens * tile.run + place(tile, lane % kRunTokens, d);
  switch (tile.kind) {
    case KvKind::kInt8:
      return tile.value ? strip * 1024 + lane / 4 * 64 + dim * 4 + lane % 4 : d / 4 * 64 + lane * 4 + d % 4;
    case KvKind::kInt4:
      return tile.value ? strip * 512 + lane / 8 * 64 + dim * 4 + lane % 4 : d / 8 * 64 + lane * 4 + d % 4;
    default:
      return (tile.value ? (strip * kTileTokens + lane) * kStripDims + dim : d * kRunTokens + lane) *
             item_bytes(tile.kind);
  }
}
/// Bits that value d of a lane is shifted by in its byte of int4.
int nibble(const KvTile& tile, size_t lane, size_t d) { return (tile.value ? lane : d) % 8 < 4 ? 0 : 4; }

uint8_t flip(const KvTile& tile) { return tile.value && tile.kind == KvKind::kInt8 ? 0x80 : 0; }

float from_f16(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const float size = exponent == 0    ? std::ldexp(static_cast<float>(fraction), -24)
                     : exponent == 31 ? (fraction == 0 ? INFINITY : NAN)
                                      : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return half >> 15 != 0 ? -size : size;
}

}  // namespace

KvTile make_tile(KvKind kind, bool value, bool asymmetric, size_t head_dim, size_t group) {
  KvTile tile;
  tile.kind = kind;
  tile.value = value;
  tile.asymmetric = asymmetric;
  tile.head_dim = head_dim;
  const size_t most = group == 0 ? kMaxKvGroup : group;
  tile.group = most < head_dim ? most : head_dim;
  const size_t values = (value ? round_up(head_dim, kStripDims) : head_dim) * kTileTokens;
  tile.scales = kind == KvKind::kInt4 ? values / 2 : values * item_bytes(kind);
  tile.run = tile.scales / (kTileTokens / kRunTokens);
  const size_t scale_bytes = tile.groups() * kTileTokens * sizeof(uint16_t);
  tile.offsets = tile.scales + scale_bytes;
  tile.bytes = tile.offsets + (asymmetric ? scale_bytes : 0);
  return tile;
}

void put_row(const KvTile& tile, uint8_t* at, size_t lane, const KvRow& row) {
  const size_t item = item_bytes(tile.kind);
  if (is_float(tile.kind)) {
    for (size_t d = 0; d < tile.head_dim; ++d) std::memcpy(at + place(tile, lane, d), row.codes + d * item, item);
  } else if (tile.kind == KvKind::kInt8) {
    const uint8_t mask = flip(tile);
    for (size_t d = 0; d < tile.head_dim; ++d) at[place(tile, lane, d)] = row.codes[d] ^ mask;
  } else {
    for (size_t d = 0; d < tile.head_dim; ++d) {
      uint8_t& byte = at[place(tile, lane, d)];
      const int shift = nibble(tile, lane, d);
      byte = static_cast<uint8_t>((byte & (0xF0 >> shift)) | row.codes[d] << shift);
    }
  }
  for (size_t g = 0; g < tile.groups(); ++g) {
    const size_t to = (g * kTileTokens + lane) * sizeof(uint16_t);
    std::memcpy(at + tile.scales + to, &row.scale[g], sizeof(uint16_t));
    if (tile.asymmetric) std::memcpy(at + tile.offsets + to, &row.offset[g], sizeof(uint16_t));
  }
}

void get_row(const KvTile& tile, const uint8_t* at, size_t lane, KvRow* row) {
  const size_t item = item_bytes(tile.kind);
  const uint8_t mask = flip(tile);
  for (size_t d = 0; d < tile.head_dim; ++d) {
    const uint8_t* const from = at + place(tile, lane, d);
    if (is_float(tile.kind)) {
      std::memcpy(row->codes + d * item, from, item);
    } else {
      row->codes[d] =
          static_cast<uint8_t>(tile.kind == KvKind::kInt8 ? *from ^ mask : *from >> nibble(tile, lane, d) & 15);
    }
  }
  for (size_t g = 0; g < tile.groups(); ++g) {
    const size_t from = (g * kTileTokens + lane) * sizeof(uint16_t);
    std::memcpy(&row->scale[g], at + tile.scales + from, sizeof(uint16_t));
    if (tile.asymmetric) std::memcpy(&row->offset[g], at + tile.offsets + from, sizeof(uint16_t));
  }
}

size_t row_bytes(const KvTile& tile) {
  const size_t codes = tile.kind == KvKind::kInt4 ? tile.head_dim / 2 : tile.head_dim * item_bytes(tile.kind);
  return codes + tile.groups() * sizeof(uint16_t) * (tile.asymmetric ? 2 : 1);
}

void pack_row(const KvTile& tile, const KvRow& row, uint8_t* bytes) {
  if (tile.kind == KvKind::kInt4) {
    for (size_t d = 0; d < tile.head_dim; d += 2) *bytes++ = static_cast<uint8_t>(row.codes[d] | row.codes[d + 1] << 4);
  } else {
    std::memcpy(bytes, row.codes, tile.head_dim * item_bytes(tile.kind));
    bytes += tile.head_dim * item_bytes(tile.kind);
  }
  const size_t scale_bytes = tile.groups() * sizeof(uint16_t);
  std::memcpy(bytes, row.scale, scale_bytes);
  if (tile.asymmetric) std::memcpy(bytes + scale_bytes, row.offset, scale_bytes);
}

void unpack_row(const KvTile& tile, const uint8_t* bytes, KvRow* row) {
  if (tile.kind == KvKind::kInt4) {
    for (size_t d = 0; d < tile.head_dim; d += 2, ++bytes) {
      row->codes[d] = *bytes & 15;
      row->codes[d + 1] = static_cast<uint8_t>(*bytes >> 4);
    }
  } else {
    std::memcpy(row->codes, bytes, tile.head_dim * item_bytes(tile.kind));
    bytes += tile.head_dim * item_bytes(tile.kind);
  }
  const size_t scale_bytes = tile.groups() * sizeof(uint16_t);
  std::memcpy(row->scale, bytes, scale_bytes);
  if (tile.asymmetric) std::memcpy(row->offset, bytes + scale_bytes, scale_bytes);
}

bool is_storable(const KvTile& tile, const KvRow& row) {
  constexpr uint16_t kF16Infinity = 0x7C00, kUpperInfinity = 0x7F80;  // the latter: of bfloat16 and float32
  const auto below = [](uint16_t bits, uint16_t infinity) { return (bits & infinity) != infinity; };
  if (is_float(tile.kind)) {
    const size_t item = item_bytes(tile.kind);
    const uint16_t infinity = tile.kind == KvKind::kFloat16 ? kF16Infinity : kUpperInfinity;
    for (size_t d = 1; d <= tile.head_dim; ++d) {
      uint16_t upper;  // the half with sign and exponent
      std::memcpy(&upper, row.codes + d * item - sizeof(upper), sizeof(upper));
      if (!below(upper, infinity)) return false;
    }
  }
  for (size_t g = 0; g < tile.groups(); ++g) {
    if (row.scale[g] >= kF16Infinity) return false;  // or negative
    if (tile.asymmetric && !below(row.offset[g], kF16Infinity)) return false;
  }
  return true;
}

void dequantize_row(const KvTile& tile, const KvRow& row, float* x) {
  for (size_t d = 0; d < tile.head_dim; ++d) {
    if (tile.kind == KvKind::kFloat32) {
      std::memcpy(x + d, row.codes + d * 4, 4);
    } else if (is_float(tile.kind)) {
      uint16_t half;
      std::memcpy(&half, row.codes + d * 2, 2);
      const uint32_t wide = static_cast<uint32_t>(half) << 16;
      if (tile.kind == KvKind::kFloat16) x[d] = from_f16(half);
      if (tile.kind == KvKind::kBfloat16) std::memcpy(x + d, &wide, 4);
    } else {
      const size_t g = d / tile.group;
      const float product = static_cast<float>(row.codes[d] - tile.zero()) * from_f16(row.scale[g]);
      x[d] = tile.asymmetric ? product + from_f16(row.offset[g]) : product;
    }
  }
}

void rotate(float* x, size_t n) {
  for (size_t half = 1; half < n; half *= 2) {
    for (size_t i = 0; i < n; i += 2 * half) {
      for (size_t j = i; j < i + half; ++j) {
        const float a = x[j], b = x[j + half];
        x[j] = a + b;
        x[j + half] = a - b;
      }
    }
  }
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  for (size_t i = 0; i < n; ++i) x[i] *= scale;
}

}  // namespace ek
