// One value after the other: quantize and its kin, additions, lookups, rows of a pool, moves of bytes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue.h"
#include "kernels/kernel.h"

namespace ek {

/// Affine maps of the columns of a dense matrix, both arrays padded to a multiple of kStrip. Zero points are integers.
struct ColumnMaps {
  const float* scale;
  const float* zero_point;
  Sign sign;
};

struct ElementwiseKernels {
  // y = x ^ 0x80: u8 <-> s8. Element-wise, n bytes.
  EK_KERNEL void (*flip_sign)(const uint8_t* x, size_t n, uint8_t* y);
  // y = clamp(rne(x / scale), ..) + zero_point, to q.sign.
  EK_KERNEL void (*quantize)(const float* x, size_t n, QuantParams q, uint8_t* y);
  // y[c][r] = x[r][c], bytes; rows ldx and ldy apart.
  EK_KERNEL void (*transpose)(const uint8_t* x, size_t rows, size_t cols, size_t ldx, uint8_t* y, size_t ldy);
  // Three planes of n floats, `plane` apart, to n triples of bytes.
  EK_KERNEL void (*quantize_triples)(const float* x, size_t plane, size_t n, QuantParams q, uint8_t* y);
  EK_KERNEL void (*dequantize)(const uint8_t* x, size_t n, QuantParams q, float* y);
  // The same with a map for each of n columns.
  EK_KERNEL void (*quantize_columns)(const float* x, size_t rows, size_t n, const ColumnMaps& maps, uint8_t* y);
  EK_KERNEL void (*dequantize_columns)(const uint8_t* x, size_t rows, size_t n, const ColumnMaps& maps, float* y);
  // Rows of n floats, symmetric, each with a scale of its own: max|x| / 127, NaN passed over, or 1 where the peak is
  // below 2^-110; y = rne(x * (127 / max|x|)), or -128 for a NaN. Beside an infinity the scale is infinite, all that is
  // finite 0, infinity 127 and minus infinity -128. As kU8, 128 is added: what x86 multiplies. Rows of x and y are ldx
  // and ldy apart.
  EK_KERNEL void (*quantize_rows)(const float* x, size_t rows, size_t n, size_t ldx, Sign sign, uint8_t* y, size_t ldy,
                                  float* scale);
  // The same over what a row spans, [min(x, 0), max(x, 0)], in 254 steps: y = rne(x * (254 / width) + z) - 128, where
  // z = rne(-min * (254 / width)); zero_point is z - 128. Rows with a NaN or an infinity, or so wide that the width is
  // one, are quantize_rows', with a zero point of 0.
  EK_KERNEL void (*quantize_spans)(const float* x, size_t rows, size_t n, size_t ldx, Sign sign, uint8_t* y, size_t ldy,
                                   float* scale, int32_t* zero_point);
  // y = quantize(dequantize(a) + dequantize(b)), clamped to [lo, hi] around the zero point of y.
  EK_KERNEL void (*add)(const uint8_t* a, QuantParams qa, const uint8_t* b, QuantParams qb, size_t n, QuantParams qy,
                        float lo, float hi, uint8_t* y);
  EK_KERNEL void (*lookup)(const uint8_t* x, size_t n, const uint8_t* table, uint8_t* y);  // y[i] = table[x[i]]
  // acc[c] = sum over `rows` pointers of value(row[c]), as int32; x bytes read as `sign`.
  EK_KERNEL void (*sum_rows)(const uint8_t* const* rows, size_t num_rows, size_t channels, Sign sign, int32_t* acc);
  // y[c] = max over rows.
  EK_KERNEL void (*max_rows)(const uint8_t* const* rows, size_t num_rows, size_t channels, Sign sign, uint8_t* y);
  // Rows of n bytes, read as `sign`: y = quantize(e / (the row's sum of e)), with e = exponentials[largest - x], sums
  // exact, and the division made once a row: y = rne(clamp(float(e) * float(1 / (sum * q.scale)), ..)) + zero_point.
  EK_KERNEL void (*softmax)(const uint8_t* x, size_t rows, size_t n, Sign sign, const int32_t* exponentials,
                            QuantParams q, uint8_t* y);
  // y = rne(clamp(float(acc) * multiplier, lo, hi)) + zero_point
  EK_KERNEL void (*requantize)(const int32_t* acc, size_t n, float multiplier, float lo, float hi, int32_t zero_point,
                               uint8_t* y);

  // What a static linear layer makes of its scales. y = float(x_scale * scale / y_scale), in double.
  EK_KERNEL void (*fold_scales)(const float* scale, size_t n, float x_scale, float y_scale, float* y);
  // y = rne(bias / (x_scale * scale)), in double. Returns the first place where |y| is not below 2^30, or n.
  EK_KERNEL size_t (*fold_bias)(const float* bias, const float* scale, size_t n, float x_scale, int32_t* y);
};

#define EK_ELEMENTWISE_KERNELS(X) \
  X(flip_sign)                    \
  X(quantize)                     \
  X(transpose)                    \
  X(quantize_triples)             \
  X(dequantize)                   \
  X(quantize_columns)             \
  X(dequantize_columns)           \
  X(quantize_rows)                \
  X(quantize_spans)               \
  X(add)                          \
  X(lookup)                       \
  X(softmax)                      \
  X(sum_rows)                     \
  X(max_rows)                     \
  X(requantize)                   \
  X(fold_scales)                  \
  X(fold_bias)

}  // namespace ek
