// Products of float rows, quantized on the way, and packed 4-bit weights.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/gemm.h"
#include "kernels/kernel.h"

namespace ek {

inline constexpr size_t kW4GemvPanels = 2;  // panels that w4_gemv takes
inline constexpr size_t kOctet = 8;         // values of k in one line of 4-bit weights
inline constexpr size_t kW4Run = 128;  // values of a row of activations that share a scale: whole groups of any size

/// One row of activations for w4_tile. The last run and the last group may be short.
struct W4Row {
  const float* x;  // k values
  size_t k, group;
  bool whole_row;  // the runs have one scale, that of the row
  float unit;      // of the weights' scales
  int8_t* q;       // [k rounded up to kStrip], the rest zero
  float* scale;    // [runs], each times unit, `stride` apart as are the starts
  int32_t* start;  // [groups], -8 * sum of the group's values: what the weights' +8 adds, taken back
  size_t stride;
  int8_t* high = nullptr;  // where values have 16 bits, 256 * high + q: [k rounded up to kStrip], the rest zero
};

/// rows x one panel of C on 4-bit weights.
struct W4Tile {
  const int8_t* q;  // [rows], ldq bytes apart; from w4_quantize, as are scale and start
  size_t ldq;
  const float* scale;                     // [runs][rows]
  const int32_t* start;                   // [groups][rows]
  size_t rows, octets, octets_per_group;  // the last group may have fewer octets
  const uint8_t* panel;                   // gemm/pack4.h has its layout
  bool has_offset;
  uint8_t* c;
  size_t ldc;         // bytes from row to row
  size_t cols;        // columns that are stored, <= kPanel
  size_t row0, col0;  // where the tile lies in the product
  bool wide = false;  // every row of q has its high bytes behind it, ldq bytes apart
};

struct Int4Kernels {
  size_t w4_tile_rows;  // best height of a w4_tile, its largest too; a half of it where rows are wide
  // As quantize_rows, over each run or the whole row: s8 on every ISA. Of 16 bits, in steps 256 times as small.
  EK_KERNEL void (*w4_quantize)(const W4Row& row);
  // y = sum over runs, ascending, of scale_q * the sum over their groups, ascending, of (float(dot) + offset *
  // float(sum q)) * scale_w, then plus bias and the rest of a real kind's epilogue.
  EK_KERNEL void (*w4_tile)(const W4Tile& tile, const Epilogue& epilogue);
  // kW4GemvPanels tiles of the same single row, side by side, as gemv.
  EK_KERNEL void (*w4_gemv)(const W4Tile* tiles, const Epilogue& epilogue);
};

#define EK_INT4_KERNELS(X) X(w4_quantize) X(w4_tile) X(w4_gemv)

}  // namespace ek
