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
};

/// Rows start on a line, and not a page apart: that would put the rows of a tile into one set of the L1.
inline size_t code_stride(size_t k) {
  constexpr size_t kLine = 64, kPage = 4096;
  const size_t lines = round_up(k, kLine);
  return lines % kPage == 0 ? lines + kLine : lines;
}

inline size_t row_scale_bytes(size_t rows) { return round_up(rows * sizeof(float), 64); }

/// Bytes of scratch memory that so many rows take.
inline size_t quantized_rows_bytes(size_t rows, size_t k) { return row_scale_bytes(rows) + rows * code_stride(k); }

inline QuantizedRows quantized_rows_in(uint8_t* scratch, size_t rows, size_t k) {
  return {reinterpret_cast<float*>(scratch), scratch + row_scale_bytes(rows), code_stride(k)};
}

/// A product on these rows: `args` lacks a, lda, a_sign and the epilogue's row_scale; its init is
/// make_symmetric_init's.
inline GemmArgs product_of_rows(const Runtime& rt, const QuantizedRows& rows, GemmArgs args) {
  args.a = rows.codes;
  args.lda = rows.stride;
  args.a_sign = rt.kernels->native_sign;
  // Whole quads of k: the bytes that fill the last one meet weights of zero.
  args.b.shape.k_per_tap = round_up(args.b.shape.k_per_tap, 4);
  args.epilogue.row_scale = rows.scale;
  return args;
}

inline void multiply_rows(const Runtime& rt, const QuantizedRows& rows, const GemmArgs& args) {
  gemm(rt, product_of_rows(rt, rows, args));
}

}  // namespace ek
