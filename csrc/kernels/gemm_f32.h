// Products of float32 activations and packed float32 weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue.h"

namespace ek {

inline constexpr size_t kMaxF32TileRows = 12;  // rows of the tallest register tile

/// rows x `cols` of C on float32 weights in strips of [k][16], padded columns zero. What a tile adds to lies in C.
struct F32GemmTile {
  const float* a;    // [rows], lda floats apart
  size_t lda, rows;  // 1 .. tile rows
  size_t k;
  const float* b;     // first line of the first strip
  size_t b_step;      // floats from strip to strip
  bool starts;        // sums begin at zero; else at what C, float32, holds
  uint8_t* c;         // float32 sums, or what the epilogue makes of them
  size_t ldc;         // bytes from row to row
  size_t cols;        // columns that are stored
  size_t row0, col0;  // where the tile lies in the product
};

struct F32Kernels {
  size_t f32_tile_rows;  // best height of a register tile, <= kMaxF32TileRows
  // y = fma(x, w, y) over k, ascending, from zero or from what C holds: stored as float32 where there is no epilogue,
  // else plus bias and the rest of a real kind.
  void (*gemm_f32_tile)(const F32GemmTile& tile, const Epilogue* epilogue);
  // Register-only multiply-adds, a tile's own mix; returns how many were done.
  uint64_t (*fma_burst)(size_t iterations);
};

#define EK_F32_KERNELS(X) X(gemm_f32_tile) X(fma_burst)

}  // namespace ek
