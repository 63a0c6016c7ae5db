// 4-bit weights, and what a row makes of them by the definition.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "base/buffer.h"
#include "gemm/gemm4.h"
#include "reference.h"

namespace ek::test {

struct Operands4 {
  PackedShape4 shape;
  std::vector<int8_t> w;                 // (k, n)
  std::vector<float> scale, zero_point;  // (groups, n), all of them float16 values
  AlignedBuffer packed;
  float unit = 1.0f;
};

inline Operands4 make_operands4(size_t n, size_t k, size_t group, bool asymmetric) {
  Operands4 o;
  o.shape = {n, k, group, asymmetric};
  o.w.resize(k * n);
  for (auto& v : o.w) v = static_cast<int8_t>(uniform(0, 3) == 0 ? (uniform(0, 1) == 0 ? -8 : 7) : uniform(-8, 7));
  for (size_t i = 0; i < o.shape.groups() * n; ++i) {
    o.scale.push_back(std::ldexp(static_cast<float>(uniform(1024, 2047)), uniform(-18, -14)));
    o.zero_point.push_back(static_cast<float>(uniform(-64, 64)) / 8.0f);
  }
  const float largest = o.scale.empty() ? 1.0f : *std::max_element(o.scale.begin(), o.scale.end());
  o.unit = unit_of_scales(largest);
  size_t bytes = 0;
  if (!o.shape.bytes(&bytes)) std::abort();
  o.packed = AlignedBuffer(bytes);
  pack_weights4(o.shape, o.w.data(), static_cast<ptrdiff_t>(n), 1, o.scale.data(), o.unit,
                asymmetric ? o.zero_point.data() : nullptr, o.packed.data());
  return o;
}

inline RowScale scale_of(const float* x, size_t begin, size_t end) {
  float peak = 0;
  for (size_t k = begin; k < end; ++k) peak = std::max(peak, std::fabs(x[k]));
  return RowScale(peak);
}

/// The product of a row, quantized run by run or as a whole, to 8 bits or to 16, and a column.
inline float sum4(const Operands4& o, const float* x, size_t col, bool scale_per_row, bool wide = false) {
  const float finer = wide ? 256.0f : 1.0f, least = wide ? -127.0f * 256.0f : -128.0f;
  const PackedShape4& s = o.shape;
  float y = 0, run_sum = 0;
  for (size_t g = 0; g < s.groups(); ++g) {
    const size_t begin = g * s.group, end = std::min(s.k, begin + s.group);
    const size_t run_begin = begin / kW4Run * kW4Run, run_end = std::min(s.k, run_begin + kW4Run);
    const RowScale by = scale_per_row ? scale_of(x, 0, s.k) : scale_of(x, run_begin, run_end);
    int32_t dot = 0, sum = 0;
    for (size_t k = begin; k < end; ++k) {
      const int32_t q = rne(clamp(x[k] * by.factor * finer, least, 127.0f * finer));
      dot += q * o.w[k * s.n + col];
      sum += q;
    }
    float term = static_cast<float>(dot);
    if (s.asymmetric) term = std::fma(-o.zero_point[g * s.n + col], static_cast<float>(sum), term);
    run_sum = std::fma(term, o.scale[g * s.n + col] / o.unit, run_sum);
    if (end < run_end) continue;
    y = std::fma(run_sum, by.scale / finer * o.unit, y);
    run_sum = 0;
  }
  return y;
}

}  // namespace ek::test
