// depthwise_row: one output pixel of a depthwise convolution, all channels.
//
// Method     four taps are interleaved byte by byte, so that the dot product runs over taps and lanes are channels;
//            a 3x3 kernel is three dot products per 16 channels (the last one with three zero weights).
// Edges      fewer than 16 channels are copied out first; missing taps repeat tap 0 against zero weights.
#pragma once

#include "kernels/epilogue.inl"

namespace ek {
namespace {

EK_INLINE void depthwise_strip(const DepthwiseRow& d, const Epilogue& e, const QuantizedEpilogue& quantized,
                               const FloatEpilogue& real, size_t c, size_t n) {
  const size_t quads = (d.num_taps + 3) / 4;
  const int8_t* w = d.weights + c * quads * 4;
  I32 acc = load_i32(d.init + c);
  for (size_t q = 0; q < quads; ++q) {
    const uint8_t* rows[4];
    uint8_t lanes[4][kStrip];
    for (size_t i = 0; i < 4; ++i) {
      rows[i] = d.taps[4 * q + i < d.num_taps ? 4 * q + i : 0] + c;
      if (n < kStrip) {
        for (size_t j = n; j < kStrip; ++j) lanes[i][j] = 0;
        copy_bytes(lanes[i], rows[i], n);
        rows[i] = lanes[i];
      }
    }
    acc = dot(acc, interleave4(rows[0], rows[1], rows[2], rows[3]), load_line(w + q * 64));
  }
  if (e.kind == OutKind::kInt32) {
    store_i32_n(static_cast<int32_t*>(d.out) + c, acc, n);
  } else if (e.kind == OutKind::kQuantized) {
    quantized.store(acc, load_f32(e.multiplier + c), d.row, c, n, static_cast<uint8_t*>(d.out) + c);
  } else {
    real.store(acc, load_f32(e.multiplier + c), d.row, c, n, static_cast<float*>(d.out) + c);
  }
}

void depthwise_row(const DepthwiseRow& d, const Epilogue& e) {
  const QuantizedEpilogue quantized(e);
  const FloatEpilogue real(e);
  size_t c = 0;
  for (; c + kStrip <= d.channels; c += kStrip) depthwise_strip(d, e, quantized, real, c, kStrip);
  if (c < d.channels) depthwise_strip(d, e, quantized, real, c, d.channels - c);
}

}  // namespace
}  // namespace ek
