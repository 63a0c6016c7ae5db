// Packed weights with a scale a group, for every ISA: those of 4 bits, and what they share with those of pack2.h.
//
// 4 bits. A panel is one stream, read once from its first byte to its last:
//
//   panel 0 | panel 1 | ...                     64 columns each; the last is padded to them
//   panel:  group 0 | group 1 | ...             32, 64 or 128 values of k each; the last may be shorter
//   group:  [octets][64][4] bytes of nibbles | float16 scales [64] | float16 offsets [64], asymmetric weights only
//
// Byte (z, n, j) holds k = 8 z + j of column n in its low nibble and k = 8 z + 4 + j in its high one, both as value
// + 8. 64 bytes are 16 columns, and their nibbles are two operands of a dot product whose lanes are columns. Padding
// along k is the value 0; a padded column has scale 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace ek {

struct PackedShape4 {
  size_t n = 0, k = 0;
  size_t group = 0;         // values of k that share a scale: 32, 64 or 128
  bool asymmetric = false;  // has offsets
  bool ternary = false;     // values in {-1, 0, 1}, as gemm/pack2.h lays them out; groups of 64 or 128, symmetric

  int bits() const { return ternary ? 2 : 4; }
  size_t panels() const;
  size_t groups() const;
  size_t octets() const;       // of one column; of ternary ones, those of whole groups
  size_t panel_bytes() const;  // a multiple of 64
  /// Whole size in bytes, or false when it does not fit in size_t.
  bool bytes(size_t* out) const;
};

/// real = (q + offset) * scale * unit. The power of two keeps float16 scales normal wherever float32 ones lie.
struct PackedView4 {
  PackedShape4 shape;
  const uint8_t* data = nullptr;  // 64-byte aligned
  float unit = 1.0f;
};

/// The power of two that brings `largest` (positive, finite, not subnormal) to [2^14, 2^15) when divided by it.
float unit_of_scales(float largest);

/// Nearest float16, ties to even; |x| < 65520.
uint16_t to_half(float x);

/// Packs w[k * stride_k + n * stride_n] (elements in [-8, 7]) with dense scale[groups][n] and, for asymmetric shapes,
/// zero_point[groups][n]; both are rounded to float16. `out` is 64-byte aligned.
void pack_weights4(const PackedShape4& shape, const int8_t* w, ptrdiff_t stride_k, ptrdiff_t stride_n,
                   const float* scale, float unit, const float* zero_point, uint8_t* out);

}  // namespace ek
