// 16-bit activations: codes as two bytes, and the end of their products.
//
// Exact      |high|, |low| < 2^31 and |start| < 2^52, so that 256 * high + low + start is exact in double; it is
// rounded
//            to float32 once. Loops over doubles are plain: every one of their operations has one result.
#pragma once

#include "kernels/epilogue.inl"
#include "kernels/partial.inl"
#include "kernels/wide.h"

namespace ek {
namespace {

void split_codes(const float* x, size_t n, WideParams q, Sign sign, uint8_t* high, uint8_t* low) {
  const auto least = static_cast<float>(-q.from_least());
  const F32 lo = set1_f32(least), hi = set1_f32(least + 65535.0f), scale = set1_f32(q.scale);
  const I32 zero = set1_i32(q.from_least()), other = set1_i32(sign == Sign::kS8 ? 128 : 0);
  for (size_t i = 0; i < n; i += kStrip) {
    const I32 code = add_i32(rne_i32(clamp(div_f32(load_f32_n(x + i, n - i), scale), lo, hi)), zero);
    store_bytes_n(high + i, add_i32(shift_right<8>(code), other), n - i);
    store_bytes_n(low + i, add_i32(code, other), n - i);
  }
}

void finish_wide(const WideRows& rows, const Epilogue& e) {
  const RealStore real(e);
  for (size_t r = 0; r < rows.rows; ++r) {
    const int32_t *const high = rows.high + r * rows.ld, *const low = rows.low + r * rows.ld;
    for (size_t first = 0; first < rows.cols; first += kPanel) {
      const size_t cols = rows.cols - first < kPanel ? rows.cols - first : kPanel, col = rows.col0 + first;
      float z[kPanel] = {};
      const float* const multiplier = e.multiplier + col;
      for (size_t i = 0; i < cols; ++i) {
        const double exact = static_cast<double>(high[first + i]) * 256.0 + static_cast<double>(low[first + i]);
        z[i] = static_cast<float>(exact + rows.start[first + i]) * multiplier[i];
      }
      if (e.bias != nullptr) {
        for (size_t i = 0; i < cols; ++i) z[i] = z[i] + e.bias[col + i];
      }
      real.store(z, (cols + kStrip - 1) / kStrip, rows.row0 + r, col, cols,
                 rows.c + r * rows.ldc + out_bytes(e, first));
    }
  }
}

}  // namespace
}  // namespace ek
