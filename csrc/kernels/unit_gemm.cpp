#include "kernels/gemm_shallow.inl"
#include "kernels/gemm_thin.inl"
#include "kernels/gemm_tile.inl"
#include "kernels/gemv.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(gemm)(GemmKernels* table) {
  table->native_sign = kNativeSign;
  table->tile_rows = kTileRows;
  table->tile_strips = kTileStrips;
  table->gemm_tile = gemm_tile;
#ifdef EK_SIMD_SHALLOW
  table->gemm_shallow = gemm_shallow;
#endif
  table->gemm_thin = gemm_thin;
  table->gemv = gemv;
}

}  // namespace ek
