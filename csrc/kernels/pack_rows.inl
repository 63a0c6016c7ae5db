// pack_rows: an int8 matrix that is there at run time, row after row, in the layout of packed weights.
//
// Method     four rows are interleaved byte by byte, 16 columns at a time, which is a line of the layout; a dot product
//            with ones sums it.
// Edges      rows past the last one are zeros; fewer than 16 columns are copied out first.
#pragma once

#include EK_SIMD_HEADER
#include "kernels/gemm.h"
#include "simd/copy_bytes.h"

namespace ek {
namespace {

void pack_rows(const uint8_t* w, size_t k, size_t n, uint8_t* packed, int32_t* sums) {
  const size_t quads = (k + 3) / 4, padded = (n + kStrip - 1) / kStrip * kStrip;
  const uint8_t zeros[kStrip] = {};
  int8_t one[4 * kStrip];
  for (int8_t& x : one) x = 1;
  const Line ones = load_line(one);
  for (size_t c = 0; c < n; c += kStrip) {
    const size_t panel = c / kPanel * kPanel, width = padded - panel < kPanel ? padded - panel : kPanel;
    uint8_t* to = packed + (panel * quads + c - panel) * 4;
    I32 sum = set1_i32(0);
    for (size_t q = 0; q < quads; ++q, to += width * 4) {
      const uint8_t* row[4];
      uint8_t copy[4][kStrip] = {};
      for (size_t i = 0; i < 4; ++i) {
        const bool inside = q * 4 + i < k;
        row[i] = inside ? w + (q * 4 + i) * n + c : zeros;
        if (inside && n - c < kStrip) {
          copy_bytes(copy[i], row[i], n - c);
          row[i] = copy[i];
        }
      }
      const Line line = interleave4(row[0], row[1], row[2], row[3]);
      store_line(to, line);
      sum = dot(sum, ones, line);
    }
    store_i32(sums + c, sum);
  }
}

}  // namespace
}  // namespace ek
