// Packed ternary weights, for every ISA. A panel is one stream, read once from its first byte to its last:
//
//   panel 0 | panel 1 | ...        64 columns each; the last is padded to them
//   panel:  group 0 | group 1 | ...  64 N values of k each, N 1 or 2; the last is padded to them
//   group:  [pairs][64][4] bytes of 4 digits | [fives][64][4] bytes of 5 digits | N lines of [16][4] bytes of 4 |
//           float16 scales [64]
//
// A digit is a value in {-1, 0, 1} plus 1. Byte (i, n, j) of the pairs holds k = 16 i + 4 d + j of column n in its bits
// 2 d and 2 d + 1; of the fives, behind them, k = 20 i + 4 d + j as its digit d: together they are a number v < 3^5,
// the first digit in front, kept as ceil(256 v / 243): the fraction v / 243 in 256ths, whose digits come out in front
// when it is multiplied by 3. Of the 4 N values of k that are left, 16 columns after 16 columns take the next N pairs
// of the lines behind. Groups of 64 have no pairs and 3 fives: 1.875 bits a value. Groups of 128 have 5 pairs, which
// are taken apart faster, and 2 fives: 2.0 bits. Padding along k is the value 0; a padded column has scale 0.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/pack4.h"

namespace ek {

/// Bytes of one group of a panel.
size_t packed2_group_bytes(size_t group);

/// As pack_weights4(), of elements in {-1, 0, 1}.
void pack_weights2(const PackedShape4& shape, const int8_t* w, ptrdiff_t stride_k, ptrdiff_t stride_n,
                   const float* scale, float unit, uint8_t* out);

}  // namespace ek
