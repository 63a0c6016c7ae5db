// Row pointers of an indirect convolution: which input pixel each tap of an output pixel reads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/conv.h"

namespace ek {

/// Calls visit(tap, inside, input) for every tap of output pixel `pixel`; `input` is an index of NHWC pixels,
/// meaningful when `inside`. Divides once per pixel, not once per tap: for thin layers this is a good part of the work.
template <typename Visit>
inline void for_each_tap(const Window& w, size_t pixel, Visit&& visit) {
  const size_t row = pixel / w.out_w, out_x = pixel - row * w.out_w, batch = row / w.out_h,
               out_y = row - batch * w.out_h;
  // Coordinates above the padding are negative and, as size_t, past every size.
  const size_t y0 = out_y * w.stride_h - w.pad_top, x0 = out_x * w.stride_w - w.pad_left;
  size_t tap = 0;
  for (size_t ky = 0; ky < w.kernel_h; ++ky) {
    const size_t y = y0 + ky * w.dilation_h, line = (batch * w.in_h + y) * w.in_w;
    const bool row_inside = y < w.in_h;
    for (size_t kx = 0; kx < w.kernel_w; ++kx, ++tap) {
      const size_t x = x0 + kx * w.dilation_w;
      visit(tap, row_inside && x < w.in_w, line + x);
    }
  }
}

/// Where row pointers are written: the pointer of `tap` of the i-th pixel goes to at[tap * tap_stride + i *
/// pixel_stride].
struct PointerTable {
  const uint8_t** at;
  size_t tap_stride, pixel_stride;
};

/// Row pointers of `count` output pixels from `pixel` on: into `x` (pixels of `pixel_bytes`), or `zeros` for the
/// padding. Along one row of the image, clear of its sides, pointers only move on.
inline void fill_row_pointers(const Window& w, size_t pixel, size_t count, const uint8_t* x, size_t pixel_bytes,
                              const uint8_t* zeros, const PointerTable& table) {
  const size_t taps = w.taps(), reach = (w.kernel_w - 1) * w.dilation_w, move = w.stride_w * pixel_bytes;
  size_t out_x = pixel % w.out_w;
  bool clear_before = false;
  for (size_t i = 0; i < count; ++i, out_x = out_x + 1 == w.out_w ? 0 : out_x + 1) {
    const size_t x0 = out_x * w.stride_w - w.pad_left;
    const bool clear = x0 < w.in_w && x0 + reach < w.in_w;
    const uint8_t** to = table.at + i * table.pixel_stride;
    if (clear && clear_before && out_x != 0) {
      const uint8_t* const* const last = to - table.pixel_stride;  // the pixel before, which `i` has passed
      for (size_t tap = 0; tap < taps; ++tap) {
        const uint8_t* before = last[tap * table.tap_stride];
        to[tap * table.tap_stride] = before == zeros ? zeros : before + move;
      }
    } else {
      for_each_tap(w, pixel + i, [&](size_t tap, bool inside, size_t input) {
        to[tap * table.tap_stride] = inside ? x + input * pixel_bytes : zeros;
      });
    }
    clear_before = clear;
  }
}

}  // namespace ek
