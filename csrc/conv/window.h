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

}  // namespace ek
