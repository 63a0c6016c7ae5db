// GEMM on packed weights: u8/s8 activations x s8 weights, int32 accumulators, epilogue in registers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gemm/pack.h"
#include "gemm/tile_plan.h"
#include "kernels/kernels.h"

namespace ek {

struct GemmArgs {
  size_t m = 0;
  const uint8_t* a = nullptr;  // (m, k), rows `lda` bytes apart, of sign a_sign
  size_t lda = 0;
  Sign a_sign = Sign::kU8;
  PackedView b;                   // k = taps * k_per_tap of the packed weights
  const int32_t* init = nullptr;  // from make_init, padded to kStrip
  void* c = nullptr;
  size_t ldc = 0;  // bytes from row to row
  Epilogue epilogue;
};

/// Scratch bytes that gemm() needs for these operands on this ISA: room to flip the sign of A, or 0.
size_t gemm_scratch_bytes(const Kernels& kernels, const GemmArgs& args);

/// Runs exactly the blocks of `plan` (made for the same m, n, k). `scratch` has gemm_scratch_bytes.
void gemm(const Runtime& rt, const GemmArgs& args, const TilePlan& plan, uint8_t* scratch);

}  // namespace ek
