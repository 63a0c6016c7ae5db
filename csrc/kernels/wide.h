// Activations of 16 bits, as two products of 8 bits: what makes the bytes, and what puts the products together.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue.h"
#include "kernels/kernel.h"

namespace ek {

/// Affine map of a 16-bit tensor: real = (q - zero_point) * scale, q in [-32768, 32767] or in [0, 65535].
struct WideParams {
  float scale = 1.0f;
  int32_t zero_point = 0;
  bool is_signed = false;

  int32_t least() const { return is_signed ? -32768 : 0; }
  /// The zero point as the bytes have it: counted from the least code on.
  int32_t from_least() const { return zero_point - least(); }
};

/// Rows of two exact products, of high and of low bytes, each `ld` integers from row to row.
struct WideRows {
  const int32_t *high, *low;
  size_t ld;
  size_t rows, cols;    // cols is any number
  const double* start;  // [cols]: whole numbers
  uint8_t* c;           // the first result, rows `ldc` bytes apart
  size_t ldc;
  size_t row0, col0;  // where the rows lie in C: offsets into multiplier, bias, addend
};

struct WideKernels {
  // u = clamp(rne(x / scale) + zero_point) - least, in [0, 65535]: NaN gives 0. Its upper and its lower byte, of
  // `sign`: 128 less as kS8.
  EK_KERNEL void (*split_codes)(const float* x, size_t n, WideParams q, Sign sign, uint8_t* high, uint8_t* low);
  // float(256 * high + low + start) * multiplier + bias, each rounded once, and what the epilogue's real kinds do.
  EK_KERNEL void (*finish_wide)(const WideRows& rows, const Epilogue& epilogue);
};

#define EK_WIDE_KERNELS(X) X(split_codes) X(finish_wide)

}  // namespace ek
