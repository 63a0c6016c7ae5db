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
  size_t ldc = 0;      // bytes from row to row
  size_t whole_m = 0;  // rows of the C that this one is a part of, where it is
  Epilogue epilogue;
};

/// Runs exactly the blocks of `plan` (made for the same m, n, k).
void gemm(const Runtime& rt, const GemmArgs& args, const TilePlan& plan);

/// The code that gemm() will run: "thin", "gemv", "shallow" or "tile".
const char* gemm_path(const Runtime& rt, const GemmArgs& args, const TilePlan& plan);

}  // namespace ek
