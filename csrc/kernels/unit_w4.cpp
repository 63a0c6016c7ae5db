#include "kernels/unit.h"
#include "kernels/w4.inl"

namespace ek {

void EK_FILL(w4)(Kernels* table) {
  table->w4_tile_rows = kW4TileRows;
  EK_W4_KERNELS(EK_SET)
}

}  // namespace ek
