#include "kernels/unit.h"
#include "kernels/w4.inl"

namespace ek {

void EK_FILL(w4)(Kernels* table) {
  table->w4_tile_rows = kW4TileRows;
  table->w4_quantize = w4_quantize;
  table->w4_tile = w4_tile;
  table->w4_gemv = w4_gemv;
}

}  // namespace ek
