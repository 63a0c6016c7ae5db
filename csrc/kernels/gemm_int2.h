// Products of float rows, quantized on the way by w4_quantize, and packed ternary weights.
#pragma once

#include <cstddef>

#include "kernels/gemm_int4.h"
#include "kernels/kernel.h"

namespace ek {

inline constexpr size_t kTrits = 5;        // ternary digits of a byte: quads of k in one line
inline constexpr size_t kW2TileRows = 48;  // of a w2_tile, at most
inline constexpr size_t kW2FewRows = 3;    // so many rows are faster one by one

struct Int2Kernels {
  // As w4_tile, for weights in {-1, 0, 1}: gemm/pack2.h has the layout of their panel. Groups have 64 or 128 values and
  // are all whole, as is q: padded with zeros. Neither wide nor has_offset.
  EK_KERNEL void (*w2_tile)(const W4Tile& tile, const Epilogue& epilogue);
  // kW4GemvPanels tiles of the same single row, side by side, as gemv.
  EK_KERNEL void (*w2_gemv)(const W4Tile* tiles, const Epilogue& epilogue);
};

#define EK_INT2_KERNELS(X) X(w2_tile) X(w2_gemv)

}  // namespace ek
