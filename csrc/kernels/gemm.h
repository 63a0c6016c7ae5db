// Products of 8-bit activations and packed 8-bit weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue.h"
#include "kernels/kernel.h"

namespace ek {

inline constexpr size_t kPanel = 64;        // columns in one panel of packed weights
inline constexpr size_t kMaxTileRows = 6;   // rows of the tallest register tile
inline constexpr size_t kShallowRows = 48;  // rows at a time of a product whose weights stay in registers
inline constexpr size_t kSpreadSlack = 16;  // numbers past its end that the last of spread_rows reaches
inline constexpr size_t kGemvPanels = 4;    // panels that gemv takes

/// One register tile: rows x (strips * 16) of C, summed over taps x k.
struct GemmTile {
  const uint8_t* const* a;  // [taps][rows] pointers to k activation bytes, native sign
  size_t rows, taps, k;
  const int8_t* b;        // first line of the first strip; lines of one panel follow each other
  size_t b_step;          // bytes from one k-quad to the next (panel width * 4)
  const int32_t* init;    // [strips*16] starting value of the accumulators
  size_t strips;          // 1 .. 4
  size_t cols;            // columns that are stored, <= strips * 16
  void* c;                // as the epilogue says; its first result
  size_t ldc;             // bytes from row to row
  size_t row0, col0;      // where the tile lies in C: offsets into multiplier, bias, row_scale, residual
  bool flip;              // A has not the native sign
  const int16_t* spread;  // of gemm_spread in the place of `a`: rows as spread_rows writes them,
  size_t spread_stride;   // so many numbers apart
  bool stream_c;          // C is larger than the caches and on lines of 64 bytes: store 32-bit results past them
};

/// How an ISA likes its tiles, and what computes them.
struct GemmKernels {
  Sign native_sign;    // what gemm_tile and depthwise_* multiply
  size_t tile_rows;    // best height of a register tile, <= kMaxTileRows
  size_t tile_strips;  // best width, in strips

  EK_KERNEL void (*gemm_tile)(const GemmTile& tile, const Epilogue& epilogue);
  // As gemm_tile for any number of rows, where is_shallow(), and no flip. Null where there are no registers for it.
  EK_KERNEL void (*gemm_shallow)(const GemmTile& tile, const Epilogue& epilogue);
  // As gemm_tile on rows that spread_rows has written. Null where the dot product multiplies bytes.
  EK_KERNEL void (*gemm_spread)(const GemmTile& tile, const Epilogue& epilogue);
  // The rows of a tile as int16, `stride` apart; kSpreadSlack more are written.
  EK_KERNEL void (*spread_rows)(const GemmTile& tile, int16_t* out, size_t stride);
  // As gemm_tile with int32 results, no taps and k of 1 to 4, for up to kMaxTileRows rows of any number of columns.
  // `strips`, b_step and stream_c do not count.
  EK_KERNEL void (*gemm_thin)(const GemmTile& tile);
  // kGemvPanels tiles of the same row, no taps, each a whole panel. They are read side by side, so they should lie far
  // apart; memory after them is fetched, never read.
  EK_KERNEL void (*gemv)(const GemmTile* tiles, const Epilogue& epilogue);
  // k dense rows of n int8 numbers to the panels of packed weights (gemm/pack.h) and the sums of their columns, n
  // rounded up to kStrip.
  EK_KERNEL void (*pack_rows)(const uint8_t* w, size_t k, size_t n, uint8_t* packed, int32_t* sums);
};

#define EK_GEMM_KERNELS(X) X(gemm_tile) X(gemm_shallow) X(gemm_spread) X(spread_rows) X(gemm_thin) X(gemv) X(pack_rows)

/// Whether gemm_shallow takes it: so few quads that the weights of some strips fit into registers, and 8-bit results
/// without a residual.
inline bool is_shallow(const GemmKernels& kernels, size_t taps, size_t k, const Epilogue& epilogue) {
  const bool few = (taps == 1 && (k == 8 || k == 16 || k == 24 || k == 32)) || (taps == 3 && k == 12);
  return kernels.gemm_shallow != nullptr && few && epilogue.kind == OutKind::kQuantized && epilogue.residual == nullptr;
}

}  // namespace ek
