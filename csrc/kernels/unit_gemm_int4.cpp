#include "kernels/gemm_int4.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(gemm_int4)(Int4Kernels* table) {
  table->w4_tile_rows = kW4TileRows;
  EK_INT4_KERNELS(EK_SET)
}

}  // namespace ek
