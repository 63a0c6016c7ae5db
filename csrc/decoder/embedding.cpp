#include "decoder/embedding.h"

#include <cmath>
#include <cstring>

namespace ek {
namespace {

constexpr size_t kBlock = 32;

float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

uint16_t u16_at(const uint8_t* p) { return static_cast<uint16_t>(p[0] | p[1] << 8); }

float half_at(const uint8_t* p) {
  const uint32_t half = u16_at(p), magnitude = half & 0x7FFF, sign = (half & 0x8000) << 16;
  if (magnitude >= 0x7C00) return bits_to_float(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
  // Rebiased by an exact product, subnormals too.
  const float size = bits_to_float(magnitude << 13) * 0x1p112f;
  return sign != 0 ? -size : size;
}

void read_block(RowCode code, const uint8_t* p, float* out) {
  const float scale = half_at(p);
  const uint8_t* const codes = p + 2;
  for (size_t i = 0; i < kBlock; ++i) {
    const int value = code == RowCode::kQ8_0 ? static_cast<int8_t>(codes[i])
                      : i < kBlock / 2       ? (codes[i] & 15) - 8
                                             : (codes[i - kBlock / 2] >> 4) - 8;
    out[i] = static_cast<float>(value) * scale;
  }
}

size_t block_bytes(RowCode code) { return code == RowCode::kQ8_0 ? 34 : 18; }

}  // namespace

size_t row_bytes_of(RowCode code, size_t dim) {
  if (code == RowCode::kF32) return dim * 4;
  if (code == RowCode::kF16 || code == RowCode::kBf16) return dim * 2;
  return dim % kBlock == 0 ? dim / kBlock * block_bytes(code) : 0;
}

bool read_embedding(const EmbeddingTable& table, size_t token, float* out) {
  const uint8_t* const row = table.rows + token * table.row_bytes;
  switch (table.code) {
    case RowCode::kF32:
      std::memcpy(out, row, table.dim * sizeof *out);
      break;
    case RowCode::kF16:
      for (size_t i = 0; i < table.dim; ++i) out[i] = half_at(row + 2 * i);
      break;
    case RowCode::kBf16:
      for (size_t i = 0; i < table.dim; ++i) out[i] = bits_to_float(uint32_t{u16_at(row + 2 * i)} << 16);
      break;
    default:
      for (size_t i = 0; i < table.dim / kBlock; ++i) {
        read_block(table.code, row + i * block_bytes(table.code), out + i * kBlock);
      }
  }
  bool finite = true;
  for (size_t i = 0; i < table.dim; ++i) finite = finite && std::isfinite(out[i]);
  return finite;
}

}  // namespace ek
