// depthwise_row: a run of output pixels of a depthwise convolution, all channels.
//
// Method     four taps are interleaved byte by byte, so that the dot product runs over taps and lanes are channels;
//            a 3x3 kernel is three dot products per 16 channels (the last one with three zero weights).
// Blocks     64 channels at a time, in the lane order that the ISA's interleaving gives for free; weights, starts and
//            multipliers are brought into that order once a run, and storing undoes it while it narrows to bytes.
// Edges      the channels past the last block go strip by strip, fewer than 16 are copied out first; missing taps point
//            at zero points, against zero weights.
#pragma once

#include "kernels/depthwise.h"
#include "kernels/epilogue.inl"

namespace ek {
namespace {

constexpr size_t kBlock = 64;          // channels
constexpr size_t kMaxBlockQuads = 16;  // weights of a block wait on the stack; larger kernels go strip by strip

EK_INLINE void depthwise_block(const DepthwiseRow& d, const Epilogue& e, size_t c) {
  Line weights[kMaxBlockQuads][4];
  for (size_t q = 0; q < d.quads; ++q) {
    Line lines[4];
    unroll<4>([&](auto s)
                  EK_LAMBDA { lines[s.value] = load_line(d.weights + ((c + s.value * 16) * d.quads + q * 16) * 4); });
    to_block_order(lines);
    unroll<4>([&](auto s) EK_LAMBDA { weights[q][s.value] = lines[s.value]; });
  }
  I32 init[4];
  F32 multiplier[4];
  unroll<4>([&](auto s) EK_LAMBDA {
    init[s.value] = load_i32(d.init + c + s.value * 16);
    multiplier[s.value] = load_f32(e.multiplier + c + s.value * 16);
  });
  to_block_order(init);
  to_block_order(multiplier);
  ByteStore bytes(e.lo, e.hi, e.out.zero_point, e.out.sign);
  bytes.expect(multiplier);
  const uint8_t* const* taps = d.taps;
  uint8_t* out = static_cast<uint8_t*>(d.out) + c;
  for (size_t pixel = 0; pixel < d.pixels; ++pixel, out += d.out_ld) {
    I32 acc[4] = {init[0], init[1], init[2], init[3]};
    for (size_t q = 0; q < d.quads; ++q, taps += 4) {
      Line lines[4];
      interleave_block(taps[0] + c, taps[1] + c, taps[2] + c, taps[3] + c, lines);
      unroll<4>([&](auto s) EK_LAMBDA { acc[s.value] = dot(acc[s.value], lines[s.value], weights[q][s.value]); });
    }
    F32 real[4];
    unroll<4>([&](auto s) EK_LAMBDA { real[s.value] = mul_f32(to_f32(acc[s.value]), multiplier[s.value]); });
    bytes.store_block(out, real);
  }
}

template <bool kWhole>
EK_INLINE void depthwise_strip(const DepthwiseRow& d, const Epilogue& e, size_t c) {
  const QuantizedEpilogue quantized(e);
  const FloatEpilogue real(e);
  const size_t n = kWhole ? kStrip : d.channels - c;
  const uint8_t* const* taps = d.taps;
  uint8_t* out = static_cast<uint8_t*>(d.out);
  for (size_t pixel = 0; pixel < d.pixels; ++pixel, out += d.out_ld) {
    const int8_t* w = d.weights + c * d.quads * 4;
    I32 acc = load_i32(d.init + c);
    for (size_t q = 0; q < d.quads; ++q, w += 64, taps += 4) {
      if constexpr (kWhole) {
        acc = dot(acc, interleave4(taps[0] + c, taps[1] + c, taps[2] + c, taps[3] + c), load_line(w));
      } else {
        uint8_t lanes[4][kStrip] = {};
        for (size_t i = 0; i < 4; ++i) copy_bytes(lanes[i], taps[i] + c, n);
        acc = dot(acc, interleave4(lanes[0], lanes[1], lanes[2], lanes[3]), load_line(w));
      }
    }
    if (e.kind == OutKind::kInt32) {
      store_i32_n(reinterpret_cast<int32_t*>(out) + c, acc, n);
    } else if (e.kind == OutKind::kQuantized) {
      quantized.store(acc, load_f32(e.multiplier + c), d.row + pixel, c, n, out + c);
    } else {
      real.store(acc, load_f32(e.multiplier + c), d.row + pixel, c, n, reinterpret_cast<float*>(out) + c);
    }
  }
}

void depthwise_row(const DepthwiseRow& d, const Epilogue& e) {
  size_t c = 0;
  if (e.kind == OutKind::kQuantized && e.residual == nullptr && d.quads <= kMaxBlockQuads) {
    for (; c + kBlock <= d.channels; c += kBlock) depthwise_block(d, e, c);
  }
  for (; c + kStrip <= d.channels; c += kStrip) depthwise_strip<true>(d, e, c);
  if (c < d.channels) depthwise_strip<false>(d, e, c);
}

}  // namespace
}  // namespace ek
