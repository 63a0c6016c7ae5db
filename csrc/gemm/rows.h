// Rows that were quantized on their way into a product: where they lie, and the product on them. linear and the decoder
// quantize in their own ways, and meet here.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/checked.h"
#include "gemm/gemm.h"

namespace ek {

struct QuantizedRows {
  float* scale;    // [rows]
  uint8_t* codes;  // of the native sign, `stride` bytes from row to row
  size_t stride;
  int32_t* zero_point = nullptr;  // [rows], as s8 has them; null where all are 0
};

/// Rows start on a line, and not a page apart: that would put the rows of a tile into one set of the L1.
inline size_t code_stride(size_t k) {
  constexpr size_t kLine = 64, kPage = 4096;
  const size_t lines = round_up(k, kLine);
  return lines % kPage == 0 ? lines + kLine : lines;
}

inline size_t row_scale_bytes(size_t rows) { return round_up(rows * sizeof(float), 64); }

/// Bytes of scratch memory that so many rows take.
inline size_t quantized_rows_bytes(size_t rows, size_t k, bool zero_points = false) {
  return (zero_points ? 2 : 1) * row_scale_bytes(rows) + rows * code_stride(k);
}

inline QuantizedRows quantized_rows_in(uint8_t* scratch, size_t rows, size_t k, bool zero_points = false) {
  uint8_t* const behind = scratch + row_scale_bytes(rows);
  float* const scale = reinterpret_cast<float*>(scratch);
  if (!zero_points) return {scale, behind, code_stride(k)};
  return {scale, behind + row_scale_bytes(rows), code_stride(k), reinterpret_cast<int32_t*>(behind)};
}

/// A product on these rows: `args` lacks a, lda, a_sign and what the epilogue knows of rows; its init is
/// make_symmetric_init's.
inline GemmArgs product_of_rows(const Runtime& rt, const QuantizedRows& rows, GemmArgs args) {
  args.a = rows.codes;
  args.lda = rows.stride;
  args.a_sign = rt.kernels->native_sign;
  args.epilogue.row_scale = rows.scale;
  args.epilogue.row_zero = rows.zero_point;
  if (rows.zero_point != nullptr) args.epilogue.column_sum = args.b.colsum();
  // Whole quads of k: the bytes that fill the last one meet weights of zero.
  args.b.shape.k_per_tap = round_up(args.b.shape.k_per_tap, 4);
  return args;
}

inline void multiply_rows(const Runtime& rt, const QuantizedRows& rows, const GemmArgs& args) {
  gemm(rt, product_of_rows(rt, rows, args));
}

}  // namespace ek
