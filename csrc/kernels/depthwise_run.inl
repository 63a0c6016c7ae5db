// depthwise_run: a row of output pixels of a depthwise convolution with few channels, 64 bytes at a time.
//
// Method     taps are interleaved as in depthwise_row, but lanes are the bytes of a row, pixel after pixel: 8 channels
//            of 8 pixels are a block. So each tap reads bytes that lie side by side, as the loop above lays them out.
// Weights    those of a byte are its channel's; they repeat after `period` blocks, which spread_depthwise writes out
//            once a run, in the lane order of the ISA's interleaving.
// Edges      the last block of a row reads past it, in the room that its taps have, and stores what is in the row.
#pragma once

#include "kernels/depthwise.inl"

namespace ek {
namespace {

void spread_depthwise(const SpreadDepthwise& s) {
  for (size_t block = 0; block < s.period; ++block) {
    size_t channel[kBlock];
    for (size_t i = 0; i < kBlock; ++i) channel[i] = (block * kBlock + i) % s.channels;
    I32 init[4];
    F32 multiplier[4];
    unroll<4>([&](auto k) EK_LAMBDA {
      int32_t starts[kStrip];
      float factors[kStrip];
      for (size_t i = 0; i < kStrip; ++i) {
        starts[i] = s.init[channel[k.value * kStrip + i]];
        factors[i] = s.multiplier[channel[k.value * kStrip + i]];
      }
      init[k.value] = load_i32(starts);
      multiplier[k.value] = load_f32(factors);
    });
    to_block_order(init);
    to_block_order(multiplier);
    unroll<4>([&](auto k) EK_LAMBDA {
      store_i32(s.to_init + block * kBlock + k.value * kStrip, init[k.value]);
      store_f32(s.to_multiplier + block * kBlock + k.value * kStrip, multiplier[k.value]);
    });
    for (size_t q = 0; q < s.quads; ++q) {
      Line lines[4];
      unroll<4>([&](auto k) EK_LAMBDA {
        int8_t quads[kStrip][4];
        for (size_t i = 0; i < kStrip; ++i) {
          const size_t c = channel[k.value * kStrip + i];
          copy_bytes(quads[i], s.weights + ((c / kStrip * s.quads + q) * kStrip + c % kStrip) * 4, 4);
        }
        lines[k.value] = load_line(quads[0]);
      });
      to_block_order(lines);
      unroll<4>([&](auto k) EK_LAMBDA {
        store_line(s.to_weights + ((block * s.quads + q) * 4 + k.value) * kBlock, lines[k.value]);
      });
    }
  }
}

void depthwise_run(const DepthwiseRun& d, const Epilogue& e) {
  for (size_t first = 0; first < d.period * kBlock && first < d.bytes; first += kBlock) {
    I32 init[4];
    F32 multiplier[4];
    unroll<4>([&](auto k) EK_LAMBDA {
      init[k.value] = load_i32(d.init + first + k.value * kStrip);
      multiplier[k.value] = load_f32(d.multiplier + first + k.value * kStrip);
    });
    ByteStore bytes(e.lo, e.hi, e.out.zero_point, e.out.sign);
    bytes.expect(multiplier);
    for (size_t at = first; at < d.bytes; at += d.period * kBlock) {
      const int8_t* w = reinterpret_cast<const int8_t*>(d.weights) + first * d.quads * 4;
      const uint8_t* const* taps = d.taps;
      I32 acc[4] = {init[0], init[1], init[2], init[3]};
      for (size_t q = 0; q < d.quads; ++q, taps += 4, w += 4 * kBlock) {
        Line lines[4];
        interleave_block(taps[0] + at, taps[1] + at, taps[2] + at, taps[3] + at, lines);
        unroll<4>([&](auto k)
                      EK_LAMBDA { acc[k.value] = dot(acc[k.value], lines[k.value], load_line(w + k.value * kBlock)); });
      }
      F32 real[4];
      unroll<4>([&](auto k) EK_LAMBDA { real[k.value] = mul_f32(to_f32(acc[k.value]), multiplier[k.value]); });
      if (d.bytes - at >= kBlock) {
        bytes.store_block(d.out + at, real);
      } else {
        uint8_t last[kBlock];
        bytes.store_block(last, real);
        copy_bytes(d.out + at, last, d.bytes - at);
      }
    }
  }
}

}  // namespace
}  // namespace ek
