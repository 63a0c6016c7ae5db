// depthwise_row: one output pixel of a depthwise convolution, all channels.
//
// Method     four taps are interleaved byte by byte, so that the dot product runs over taps and lanes are channels;
//            a 3x3 kernel is three dot products per 16 channels (the last one with three zero weights).
// Edges      fewer than 16 channels are copied out first; missing taps point at zero points, against zero weights.
#pragma once

#include "kernels/epilogue.inl"

namespace ek {
namespace {

template <bool kWhole>
EK_INLINE void depthwise_strip(const DepthwiseRow& d, const Epilogue& e, const QuantizedEpilogue& quantized,
                               const FloatEpilogue& real, size_t c) {
  const size_t n = kWhole ? kStrip : d.channels - c;
  const int8_t* w = d.weights + c * d.quads * 4;
  I32 acc = load_i32(d.init + c);
  for (size_t q = 0; q < d.quads; ++q, w += 64) {
    const uint8_t* const* taps = d.taps + 4 * q;
    if constexpr (kWhole) {
      acc = dot(acc, interleave4(taps[0] + c, taps[1] + c, taps[2] + c, taps[3] + c), load_line(w));
    } else {
      uint8_t lanes[4][kStrip] = {};
      for (size_t i = 0; i < 4; ++i) copy_bytes(lanes[i], taps[i] + c, n);
      acc = dot(acc, interleave4(lanes[0], lanes[1], lanes[2], lanes[3]), load_line(w));
    }
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
  for (; c + kStrip <= d.channels; c += kStrip) depthwise_strip<true>(d, e, quantized, real, c);
  if (c < d.channels) depthwise_strip<false>(d, e, quantized, real, c);
}

}  // namespace
}  // namespace ek
