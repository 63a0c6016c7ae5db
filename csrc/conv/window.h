// Row pointers of an indirect convolution: which input pixel each tap of an output pixel reads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/conv.h"

namespace ek {

/// Input pixel (as an index of NHWC pixels) that `tap` of output pixel `pixel` reads; false when it lies in the padding.
inline bool tap_pixel(const Window& w, size_t pixel, size_t tap, size_t* input) {
  const size_t out_x = pixel % w.out_w, out_y = pixel / w.out_w % w.out_h, batch = pixel / (w.out_w * w.out_h);
  const size_t y = out_y * w.stride_h + tap / w.kernel_w * w.dilation_h;  // in padded coordinates
  const size_t x = out_x * w.stride_w + tap % w.kernel_w * w.dilation_w;
  if (y < w.pad_top || x < w.pad_left || y - w.pad_top >= w.in_h || x - w.pad_left >= w.in_w) return false;
  *input = (batch * w.in_h + y - w.pad_top) * w.in_w + x - w.pad_left;
  return true;
}

}  // namespace ek
