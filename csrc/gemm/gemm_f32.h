// Products of float32: C = finish(A * B), each value one chain of fused multiply-adds, k ascending.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/checked.h"
#include "kernels/kernels.h"

namespace ek {

/// float32 weights as kernels read them: strips of [k][16], the last one filled up with zeros.
struct F32Weights {
  size_t k = 0, n = 0;
  const float* data = nullptr;

  const float* strip(size_t i) const { return data + i * k * kStrip; }
};

/// Floats that packing k x n takes, or false when their bytes do not fit in size_t.
bool f32_packed_floats(size_t k, size_t n, size_t* out);

/// Packs w[k * stride_k + n * stride_n] (strides in elements, any sign).
void pack_f32(const Runtime& rt, size_t k, size_t n, const float* w, ptrdiff_t stride_k, ptrdiff_t stride_n,
              float* out);

struct F32Args {
  size_t m = 0;
  const float* a = nullptr;
  size_t lda = 0;  // floats from row to row
  F32Weights b;
  Epilogue epilogue;  // a real kind; its addend and bias lie apart from C
  void* c = nullptr;
  size_t ldc = 0;  // bytes from row to row
};

void gemm_f32(const Runtime& rt, const F32Args& args);

}  // namespace ek
