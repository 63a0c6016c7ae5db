#include "kernels/gemm_int4.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(gemm_int4, Int4Kernels, EK_INT4_KERNELS, table->w4_tile_rows = kW4TileRows;)

}  // namespace ek
