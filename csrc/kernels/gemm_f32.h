// Products of float32 activations and float32 weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue.h"
#include "kernels/kernel.h"

namespace ek {

inline constexpr size_t kMaxF32TileRows = 12;  // rows of the tallest register tile
inline constexpr size_t kNarrowColumns = 8;    // half a strip

/// rows x `cols` of C. What a tile adds to lies in C.
struct F32GemmTile {
  // Rows of A: `k` floats each, lda apart; or, where there is a table, runs * k floats, run by run.
  const float* a;
  size_t lda, rows;           // 1 .. tile rows, of few columns narrow rows
  const float* const* table;  // [runs][table_ld]: where the run of a row lies
  size_t table_ld, runs, k;
  size_t shift;  // floats past what the table says
  // Columns of B in strips of 16, each line read whole.
  const float* b;       // first line of the first strip
  const size_t* lines;  // [runs]: floats from there to a run's first line
  size_t b_step;        // floats from strip to strip
  size_t b_line;        // floats from line to line
  const float* ahead;   // lines of a strip that comes later, to be on their way to the L2
  size_t ahead_lines;   // how many
  bool starts;          // sums begin at zero; else at what C, float32, holds
  float scale;          // of finished sums, where there is an epilogue
  uint8_t* c;           // float32 sums, or what the epilogue makes of them
  size_t ldc;           // bytes from row to row
  size_t cols;          // columns that are stored
  size_t row0, col0;    // where the tile lies in the product
};

struct F32Kernels {
  size_t f32_tile_rows;    // best height of a register tile, <= kMaxF32TileRows
  size_t f32_narrow_rows;  // the same where there are at most kNarrowColumns
  // y = fma(x, w, y) over runs and k, ascending, from zero or from what C holds: stored as float32 where there is no
  // epilogue, else times scale, plus bias and the rest of a real kind.
  EK_KERNEL void (*gemm_f32_tile)(const F32GemmTile& tile, const Epilogue* epilogue);
  // y[c][16] = x[.][c] of `rows` <= 16 rows, ldx apart; lanes past them are zero. Columns of A, lines of B.
  EK_KERNEL void (*f32_strip)(const float* x, size_t rows, size_t cols, size_t ldx, float* y);
  // Register-only multiply-adds, a tile's own mix; returns how many were done.
  EK_KERNEL uint64_t (*fma_burst)(size_t iterations);
};

#define EK_F32_KERNELS(X) X(gemm_f32_tile) X(f32_strip) X(fma_burst)

}  // namespace ek
