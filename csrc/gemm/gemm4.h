// gemm4: float32 rows on packed weights of 4 or 2 bits. Rows are quantized to int8, or 16 bits, here, by runs or as a
// whole.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/pack4.h"
#include "kernels/kernels.h"

namespace ek {

struct Gemm4Args {
  size_t m = 0;
  const float* x = nullptr;  // (m, k), rows `ldx` floats apart
  size_t ldx = 0;
  bool scale_per_row = false;  // of the quantized x, instead of one a run
  PackedView4 b;
  void* c = nullptr;
  size_t ldc = 0;     // bytes from row to row
  Epilogue epilogue;  // of a real kind; multiplier and row_scale are not used
  bool wide = false;  // x in 16 bits instead of 8; 4-bit weights only
};

/// Bytes that gemm4() needs, 64-byte aligned: the quantized rows, their scales and sums. False: more than size_t holds.
bool gemm4_scratch_bytes(const Gemm4Args& args, size_t* out);

void gemm4(const Runtime& rt, const Gemm4Args& args, uint8_t* scratch);

}  // namespace ek
