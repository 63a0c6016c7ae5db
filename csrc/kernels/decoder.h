// What a decoder does to rows of floats.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/gemm.h"

namespace ek {

/// A row to be normed: (x * factor) * gain, element by element.
struct NormRow {
  const float* x;
  const float* gain;
  size_t n;
  float factor;
};

inline constexpr size_t kMaxF32Rows = 4;

/// rows x one panel of C on float32 weights, [k][64], padded columns zero.
struct F32Tile {
  const float* x;    // [rows], ldx floats apart
  size_t ldx, rows;  // 1 .. kMaxF32Rows
  size_t k;
  const float* panel;
  uint8_t* c;
  size_t ldc;         // bytes from row to row
  size_t cols;        // columns that are stored, <= kPanel
  size_t row0, col0;  // where the tile lies in the product
};

struct DecoderKernels {
  // Over 64 lanes and a fixed tree.
  float (*sum_squares)(const float* x, size_t n);
  void (*norm_row)(const NormRow& row, float* y);
  // norm_row, then quantize_rows.
  void (*norm_quantize_row)(const NormRow& row, Sign sign, uint8_t* y, float* scale);
  // Element i of x turns with element i + half: y may be x.
  void (*rotate_row)(const float* x, const float* cosines, const float* sines, size_t half, float* y);
  // y = sum over k, ascending, of x * w, then plus bias and the rest of a real kind's epilogue.
  void (*f32_tile)(const F32Tile& tile, const Epilogue& epilogue);
};

#define EK_DECODER_KERNELS(X) X(sum_squares) X(norm_row) X(norm_quantize_row) X(rotate_row) X(f32_tile)

}  // namespace ek
