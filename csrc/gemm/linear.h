// linear: float32 rows, quantized as they come, times packed weights. Everything after the product is the epilogue's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/gemm.h"

namespace ek {

/// So deep a sum of products of two numbers of at most 128 stays below 2^31.
inline constexpr size_t kMaxRowDepth = (size_t{1} << 17) - 1;

struct LinearArgs {
  const float* x = nullptr;  // (gemm.m, k), rows `ldx` floats apart
  size_t ldx = 0;
  bool zero_points = false;  // a row has one of its own, as dynamic_quantize_spans() says
  GemmArgs gemm;             // b has one tap; a, lda, a_sign and what the epilogue knows of rows are linear's to set;
                             // init is make_symmetric_init's
};

/// make_init() for rows that linear quantizes: in native sign, their zero point is 0 for s8 and 128 for u8.
void make_symmetric_init(const Kernels& kernels, const PackedView& b, int32_t* init);

/// What multiplies the rows, once they are quantized.
const char* linear_path(const Runtime& rt, const LinearArgs& args);
/// Keys of all that it could.
std::vector<const char*> linear_choices(const Runtime& rt, const LinearArgs& args);

/// Scratch bytes that linear() needs: the quantized rows of every thread, or of all of x.
size_t linear_scratch_bytes(const Runtime& rt, const LinearArgs& args);

/// Quantizes rows as dynamic_quantize_rows() or _spans() does, and multiplies. Where there are rows enough for every
/// thread, a thread multiplies what it has just quantized, a part of x at a time, while it is in its L2.
void linear(const Runtime& rt, const LinearArgs& args, uint8_t* scratch);

}  // namespace ek
