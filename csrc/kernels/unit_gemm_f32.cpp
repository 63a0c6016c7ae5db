#include "kernels/gemm_f32.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(gemm_f32)(F32Kernels* table) {
  table->f32_tile_rows = static_cast<size_t>(kF32TileRows);
  table->f32_narrow_rows = static_cast<size_t>(kF32NarrowRows);
  EK_F32_KERNELS(EK_SET)
}

}  // namespace ek
