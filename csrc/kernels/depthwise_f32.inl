// depthwise_f32_row: neighboring output pixels of a depthwise convolution of floats.
//
// Method     lanes are channels; a few pixels at once share each line of weights. Where the kernel's row moves on by
//            less than it is wide, a pixel of the image is read again from the L1.
// Order      one fused multiply-add a tap, taps ascending.
// Edges      fewer than 16 channels at the end are copied out first; what a tap meets outside the image is a row of
//            zeros, which steps nowhere.
#pragma once

#include "kernels/depthwise_f32.h"
#include "kernels/epilogue.inl"

namespace ek {
namespace {

template <int P, bool kWhole>
EK_INLINE void depthwise_f32_pixels(const F32DepthwiseRow& d, const Epilogue& e, size_t pixel, size_t c) {
  const size_t n = kWhole ? kStrip : d.channels - c, padded = (d.channels + kStrip - 1) / kStrip * kStrip;
  F32 sum[P];
  unroll<P>([&](auto p) EK_LAMBDA { sum[p.value] = set1_f32(0.0f); });
  const float* w = d.weights + c;
  for (size_t tap = 0; tap < d.num_taps; ++tap, w += padded) {
    const size_t step = d.steps[tap];
    const float* const x = d.taps[tap] + pixel * step + c;
    const F32 weight = load_f32(w);
    unroll<P>([&](auto p) EK_LAMBDA {
      const float* const at = x + p.value * step;
      sum[p.value] = fma_f32(kWhole ? load_f32(at) : load_f32_n(at, n), weight, sum[p.value]);
    });
  }
  const F32 bias = e.bias == nullptr ? set1_f32(0.0f) : kWhole ? load_f32(e.bias + c) : load_f32_n(e.bias + c, n);
  if (e.bias != nullptr) unroll<P>([&](auto p) EK_LAMBDA { sum[p.value] = add_f32(sum[p.value], bias); });
  uint8_t* const out = d.out + pixel * d.out_ld + out_bytes(e, c);
  if (e.kind != OutKind::kFloat32 || e.activation != Activation::kClamp || e.addend != nullptr) {
    const RealStore real(e);
    float z[P * kStrip];
    unroll<P>([&](auto p) EK_LAMBDA { store_f32(z + p.value * kStrip, sum[p.value]); });
    for (size_t p = 0; p < P; ++p) real.store(z + p * kStrip, 1, d.row + pixel + p, c, n, out + p * d.out_ld);
    return;
  }
  const F32 lo = set1_f32(e.lo), hi = set1_f32(e.hi);
  unroll<P>([&](auto p) EK_LAMBDA {
    float* const to = reinterpret_cast<float*>(out + p.value * d.out_ld);
    const F32 y = clamp_real(sum[p.value], lo, hi);
    kWhole ? store_f32(to, y) : store_f32_n(to, y, n);
  });
}

template <int P>
__attribute__((noinline)) void depthwise_f32_channels(const F32DepthwiseRow& d, const Epilogue& e, size_t pixel) {
  size_t c = 0;
  for (; c + kStrip <= d.channels; c += kStrip) depthwise_f32_pixels<P, true>(d, e, pixel, c);
  if (c < d.channels) depthwise_f32_pixels<P, false>(d, e, pixel, c);
}

void depthwise_f32_row(const F32DepthwiseRow& d, const Epilogue& e) {
  constexpr size_t kTogether = kF32Sums < 6 ? kF32Sums : 6;
  size_t pixel = 0;
  for (; pixel + kTogether <= d.pixels; pixel += kTogether) depthwise_f32_channels<kTogether>(d, e, pixel);
  for (; pixel + 2 <= d.pixels; pixel += 2) depthwise_f32_channels<2>(d, e, pixel);
  for (; pixel < d.pixels; ++pixel) depthwise_f32_channels<1>(d, e, pixel);
}

}  // namespace
}  // namespace ek
