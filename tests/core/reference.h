// The operators written the slow way, from the definitions in the headers. No header of the kernels' insides is used.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <random>
#include <vector>

#include "conv/conv.h"
#include "kernels/kernels.h"

namespace ek::test {

using Bytes = std::vector<uint8_t>;
using Sizes = std::initializer_list<size_t>;  // to loop over: a list of literals alone would be one of ints

/// The tables to test: every one that this machine runs, best first. They count (counting.h).
std::vector<const Kernels*> tables();

inline std::mt19937& rng() {
  static std::mt19937 engine(20261121);
  return engine;
}
inline int uniform(int lo, int hi) { return std::uniform_int_distribution<int>(lo, hi)(rng()); }
inline float uniform(float lo, float hi) { return std::uniform_real_distribution<float>(lo, hi)(rng()); }

/// Full range, with the extremes more often than chance.
inline Bytes random_bytes(size_t n) {
  Bytes x(n);
  for (auto& v : x) v = static_cast<uint8_t>(uniform(0, 7) == 0 ? (uniform(0, 1) == 0 ? 0x80 : 0x7F) : uniform(0, 255));
  return x;
}
inline std::vector<int8_t> random_weights(size_t n) {
  const Bytes bytes = random_bytes(n);
  return {bytes.begin(), bytes.end()};
}

/// How a row of activations is quantized whose largest |x| is `peak`: q = rne(x * factor), x is about q * scale. Beside
/// an infinity all finite x are 0.
struct RowScale {
  float scale = 1.0f, factor = 1.0f;
  explicit RowScale(float peak, float steps = 127.0f) {
    if (peak >= 0x1p-110f) scale = peak / steps, factor = steps / peak;
    if (std::isinf(peak)) factor = std::numeric_limits<float>::denorm_min();
  }
};

inline int32_t value(uint8_t byte, Sign sign) { return sign == Sign::kU8 ? byte : static_cast<int8_t>(byte); }
inline int32_t wrap_add(int32_t a, int64_t b) {
  return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
}
inline float clamp(float x, float lo, float hi) {
  const float low = x > lo ? x : lo;
  return low < hi ? low : hi;
}
/// Of values that stay real, where a NaN stays one.
inline float clamp_real(float x, float lo, float hi) {
  const float low = lo > x ? lo : x;
  return hi < low ? hi : low;
}
inline int32_t rne(float x) { return static_cast<int32_t>(std::nearbyint(x)); }
inline float real(uint8_t byte, const QuantParams& q) {
  return static_cast<float>(value(byte, q.sign) - q.zero_point) * q.scale;
}
inline uint8_t quantized(float x, const QuantParams& q, float lo, float hi) {
  return static_cast<uint8_t>(rne(clamp(x / q.scale, lo, hi)) + q.zero_point);
}

/// One element of C from its accumulator.
struct Stored {
  int32_t i = 0;
  float f = 0;
  uint8_t q = 0;
};
inline Stored store(int32_t acc, const Epilogue& e, size_t row, size_t col, size_t residual_col) {
  Stored s;
  s.i = acc;
  if (e.kind == OutKind::kFloat32) {
    const float scale = e.row_scale == nullptr ? e.multiplier[col] : e.row_scale[row] * e.multiplier[col];
    float y = static_cast<float>(acc) * scale;
    if (e.bias != nullptr) y = y + e.bias[col];
    s.f = clamp_real(y, e.lo, e.hi);
  } else if (e.kind == OutKind::kQuantized) {
    const int32_t q = rne(clamp(static_cast<float>(acc) * e.multiplier[col], e.lo, e.hi));
    s.q = static_cast<uint8_t>(q + e.out.zero_point);
    if (e.residual != nullptr) {
      const float sum =
          static_cast<float>(q) * e.out.scale + real(e.residual[row * e.residual_ld + residual_col], e.residual_q);
      s.q = quantized(sum, e.sum_q, e.sum_lo, e.sum_hi);
    }
  }
  return s;
}

/// Accumulator of a convolution output: (pixel, output channel); weights are (out_c, taps, in_c / groups).
inline int32_t conv_acc(const ConvArgs& a, const std::vector<int8_t>& w, const std::vector<int32_t>& bias, size_t pixel,
                        size_t n) {
  const Window& win = a.window;
  const size_t group_in = a.in_c / a.groups, group = n / (a.out_c / a.groups);
  const size_t ox = pixel % win.out_w, oy = pixel / win.out_w % win.out_h, batch = pixel / (win.out_w * win.out_h);
  int32_t acc = bias[n];
  for (size_t ky = 0; ky < win.kernel_h; ++ky) {
    for (size_t kx = 0; kx < win.kernel_w; ++kx) {
      const long y = static_cast<long>(oy * win.stride_h + ky * win.dilation_h) - static_cast<long>(win.pad_top);
      const long x = static_cast<long>(ox * win.stride_w + kx * win.dilation_w) - static_cast<long>(win.pad_left);
      if (y < 0 || x < 0 || y >= static_cast<long>(win.in_h) || x >= static_cast<long>(win.in_w)) continue;
      const size_t at = ((batch * win.in_h + static_cast<size_t>(y)) * win.in_w + static_cast<size_t>(x)) * a.in_c;
      for (size_t k = 0; k < group_in; ++k) {
        const int32_t v = value(a.x[at + group * group_in + k], a.x_q.sign) - a.x_q.zero_point;
        acc = wrap_add(acc, int64_t{v} * w[(n * win.taps() + ky * win.kernel_w + kx) * group_in + k]);
      }
    }
  }
  return acc;
}

}  // namespace ek::test
