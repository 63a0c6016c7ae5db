#include "kernels/gemm_f32.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(gemm_f32, F32Kernels, EK_F32_KERNELS, table->f32_tile_rows = static_cast<size_t>(kF32TileRows);
         table->f32_narrow_rows = static_cast<size_t>(kF32NarrowRows);)

}  // namespace ek
