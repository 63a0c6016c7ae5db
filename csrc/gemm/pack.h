// Packed weights. One layout for every ISA, so that a file maps its weights straight from disk:
//
//   panel 0 | panel 1 | ... | last panel | column sums
//   panel:  [taps * ceil(k_per_tap / 4)][width][4] int8, width = 64, last panel: what is left rounded up to 16
//   column sums: int32 per column, padded to a multiple of 16
//
// One line of 64 bytes is 16 columns x 4 values of k: one zmm, two ymm, four NEON registers. Padding is zero.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "base/checked.h"
#include "kernels/kernels.h"

namespace ek {

/// Stands in every saved copy of packed weights; a change of the layout above raises it.
inline constexpr uint32_t kPackedLayout = 1;

struct PackedShape {
  size_t n = 0;          // columns (output channels)
  size_t taps = 1;       // kernel positions of a convolution; 1 for a matrix
  size_t k_per_tap = 0;  // input channels; K for a matrix

  size_t padded_n() const { return round_up(n, kStrip); }
  size_t quads() const { return taps * ceil_div(k_per_tap, 4); }  // k-quads of one column
  size_t panels() const { return ceil_div(n, kPanel); }
  size_t panel_width(size_t panel) const { return std::min(kPanel, padded_n() - panel * kPanel); }
  size_t panel_offset(size_t panel) const { return panel * kPanel * quads() * 4; }  // bytes
  size_t colsum_offset() const { return padded_n() * quads() * 4; }                 // bytes
  /// Whole size in bytes, or false when it does not fit in size_t.
  bool bytes(size_t* out) const;
};

struct PackedView {
  PackedShape shape;
  const uint8_t* data = nullptr;  // 64-byte aligned

  const int8_t* panel(size_t i) const { return reinterpret_cast<const int8_t*>(data + shape.panel_offset(i)); }
  const int32_t* colsum() const { return reinterpret_cast<const int32_t*>(data + shape.colsum_offset()); }
};

/// Packs w[n * stride_n + tap * stride_tap + k * stride_k] (strides in elements, any sign) into `out`, 64-byte aligned.
void pack_weights(const PackedShape& shape, const int8_t* w, ptrdiff_t stride_n, ptrdiff_t stride_tap,
                  ptrdiff_t stride_k, uint8_t* out);

/// Packed weights of a depthwise convolution: [channels/16][ceil(taps/4)][16][4] int8 | int32 sums per channel, padded.
size_t depthwise_packed_bytes(size_t channels, size_t taps);
void pack_depthwise(size_t channels, size_t taps, const int8_t* w, ptrdiff_t stride_channel, ptrdiff_t stride_tap,
                    uint8_t* out);
const int32_t* depthwise_colsum(const uint8_t* packed, size_t channels, size_t taps);

/// init[n] = bias[n] - zp' * colsum[n] (mod 2^32), where zp' is the zero point as the kernel's native sign reads it.
/// `bias` may be null; `init` has n rounded up to kStrip entries.
void make_init(const Kernels& kernels, Sign a_sign, int32_t a_zero_point, const int32_t* colsum, const int32_t* bias,
               size_t n, int32_t* init);

}  // namespace ek
