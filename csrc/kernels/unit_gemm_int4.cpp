#include "kernels/gemm_int4.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(gemm_int4)(Int4Kernels* table) {
  table->w4_tile_rows = kW4TileRows;
  table->w4_quantize = w4_quantize;
  table->w4_tile = w4_tile;
  table->w4_gemv = w4_gemv;
}

}  // namespace ek
