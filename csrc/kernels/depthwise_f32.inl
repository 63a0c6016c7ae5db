// depthwise_f32_row: neighboring output pixels of a depthwise convolution of floats.
//
// Method     lanes are channels. Four sums are under way at once: four pixels, which share each line of weights, or
//            fewer pixels and more channels. Where the kernel's row moves on by less than it is wide, a pixel of the
//            image is read again from the L1.
// Order      one fused multiply-add a tap, taps ascending.
// Edges      fewer than 16 channels at the end are copied out first; what a tap meets outside the image is a row of
//            zeros, which steps nowhere.
#pragma once

#include "kernels/depthwise_f32.h"
#include "kernels/epilogue.inl"

namespace ek {
namespace {

/// Half a strip.
constexpr size_t kNarrowChannels = 8;

struct PixelBlock {
  size_t pixels, strips, channels;
};

/// What a clamp of float32 results does not do. A call, so that its code is there once.
__attribute__((noinline)) void finish_pixels(const F32DepthwiseRow& d, const Epilogue& e, size_t pixel, size_t c,
                                             float* z, const PixelBlock& block, uint8_t* out) {
  const RealStore real(e);
  for (size_t p = 0; p < block.pixels; ++p) {
    real.store(z + p * block.strips * kStrip, block.strips, d.row + pixel + p, c, block.channels, out + p * d.out_ld);
  }
}

/// P pixels of Q strips of channels, from `c` on. Where a vector is several registers, those past kNarrow channels are
/// not used: they fall out when kNarrow is compiled.
template <int P, int Q, bool kWhole, size_t kNarrow = kStrip>
EK_INLINE void depthwise_f32_pixels(const F32DepthwiseRow& d, const Epilogue& e, size_t pixel, size_t c) {
  const size_t n = kWhole ? Q * kStrip : d.channels - c, padded = (d.channels + kStrip - 1) / kStrip * kStrip;
  if (!kWhole && n > kNarrow) __builtin_unreachable();
  F32 sum[P][Q];
  unroll<P>([&](auto p) EK_LAMBDA { unroll<Q>([&](auto q) EK_LAMBDA { sum[p.value][q.value] = set1_f32(0.0f); }); });
  const float* w = d.weights + c;
  for (size_t tap = 0; tap < d.num_taps; ++tap, w += padded) {
    const size_t step = d.steps[tap];
    const float* const x = d.taps[tap] + pixel * step + c;
    F32 weight[Q];
    unroll<Q>([&](auto q) EK_LAMBDA { weight[q.value] = load_f32(w + q.value * kStrip); });
    unroll<P>([&](auto p) EK_LAMBDA {
      unroll<Q>([&](auto q) EK_LAMBDA {
        const float* const at = x + p.value * step + q.value * kStrip;
        F32& y = sum[p.value][q.value];
        y = fma_f32(kWhole ? load_f32(at) : load_f32_n(at, n), weight[q.value], y);
      });
    });
  }
  if (e.bias != nullptr) {
    unroll<Q>([&](auto q) EK_LAMBDA {
      const float* const at = e.bias + c + q.value * kStrip;
      const F32 bias = kWhole ? load_f32(at) : load_f32_n(at, n);
      unroll<P>([&](auto p) EK_LAMBDA { sum[p.value][q.value] = add_f32(sum[p.value][q.value], bias); });
    });
  }
  uint8_t* const out = d.out + pixel * d.out_ld + out_bytes(e, c);
  if (e.kind != OutKind::kFloat32 || e.activation != Activation::kClamp || e.addend != nullptr) {
    float z[P * Q * kStrip];
    unroll<P>([&](auto p) EK_LAMBDA {
      unroll<Q>([&](auto q) EK_LAMBDA {
        float* const to = z + (p.value * Q + q.value) * kStrip;
        if (kNarrow < kStrip) store_f32(to, set1_f32(0.0f));
        store_f32_n(to, sum[p.value][q.value], kNarrow);
      });
    });
    return finish_pixels(d, e, pixel, c, z, {P, Q, n}, out);
  }
  const F32 lo = set1_f32(e.lo), hi = set1_f32(e.hi);
  unroll<P>([&](auto p) EK_LAMBDA {
    unroll<Q>([&](auto q) EK_LAMBDA {
      float* const to = reinterpret_cast<float*>(out + p.value * d.out_ld) + q.value * kStrip;
      const F32 y = clamp_real(sum[p.value][q.value], lo, hi);
      kWhole ? store_f32(to, y) : store_f32_n(to, y, n);
    });
  });
}

template <int P, int Q>
__attribute__((noinline)) void depthwise_f32_channels(const F32DepthwiseRow& d, const Epilogue& e, size_t pixel) {
  size_t c = 0;
  for (; c + Q * kStrip <= d.channels; c += Q * kStrip) depthwise_f32_pixels<P, Q, true>(d, e, pixel, c);
  for (; c + kStrip <= d.channels; c += kStrip) depthwise_f32_pixels<P, 1, true>(d, e, pixel, c);
  if (c < d.channels) depthwise_f32_pixels<P, 1, false>(d, e, pixel, c);
}

void depthwise_f32_row(const F32DepthwiseRow& d, const Epilogue& e) {
  size_t pixel = 0;
  if (d.channels <= kNarrowChannels) {
    for (; pixel + 8 <= d.pixels; pixel += 8) depthwise_f32_pixels<8, 1, false, kNarrowChannels>(d, e, pixel, 0);
  }
  for (; pixel + 4 <= d.pixels; pixel += 4) depthwise_f32_channels<4, 1>(d, e, pixel);
  for (; pixel + 2 <= d.pixels; pixel += 2) depthwise_f32_channels<2, 2>(d, e, pixel);
  for (; pixel < d.pixels; ++pixel) depthwise_f32_channels<1, 4>(d, e, pixel);
}

}  // namespace
}  // namespace ek
