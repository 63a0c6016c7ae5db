// GEMM on packed weights: u8/s8 activations x s8 weights, int32 accumulators, epilogue in registers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "gemm/pack.h"
#include "gemm/tile_plan.h"
#include "kernels/kernels.h"

namespace ek {

/// Most K of a product that goes on to float or to 8 bits, whose accumulator must not wrap: |a - za| <= 255 and
/// |w| <= 128. Half of int32 is the bias's.
inline constexpr size_t kMaxDepth = (size_t{1} << 30) / (255 * 128);

/// Rows of A that lie anywhere, one stretch of k_per_tap bytes for each tap: what an indirect convolution multiplies.
struct RowTable {
  const uint8_t** pointers;  // room for [taps][rows], as many rows as the path takes at a time
  void (*fill)(void* context, size_t row0, size_t rows);
  void* context;
};

struct Path;

struct GemmArgs {
  size_t m = 0;
  const uint8_t* a = nullptr;  // (m, k), rows `lda` bytes apart, of sign a_sign
  size_t lda = 0;
  const RowTable* table = nullptr;  // instead of a and lda
  Sign a_sign = Sign::kU8;
  PackedView b;                   // one tap, where there is no table
  const int32_t* init = nullptr;  // from make_init, padded to kStrip
  void* c = nullptr;
  size_t ldc = 0;      // bytes from row to row
  size_t whole_m = 0;  // rows of the C that this one is a part of, where it is
  Epilogue epilogue;
  std::optional<Unit> unit;    // of every block, for the bench; else host_unit() says it
  const Path* path = nullptr;  // to take where it takes the product, by measurement; else the best by rule
};

/// C as blocks of kMacroTile, each on its unit, by the best path that takes the product.
void gemm(const Runtime& rt, const GemmArgs& args);

/// The name of that path.
const char* gemm_path(const Runtime& rt, const GemmArgs& args);
/// Keys of all that take it.
std::vector<const char*> gemm_choices(const Runtime& rt, const GemmArgs& args);

}  // namespace ek
