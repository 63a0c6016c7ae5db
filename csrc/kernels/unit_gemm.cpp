#include "kernels/gemm_shallow.inl"
#include "kernels/gemm_spread.inl"
#include "kernels/gemm_thin.inl"
#include "kernels/gemm_tile.inl"
#include "kernels/gemv.inl"
#include "kernels/pack_rows.inl"
#include "kernels/unit.h"

namespace ek {

#ifndef EK_SIMD_SHALLOW
constexpr decltype(GemmKernels::gemm_shallow) gemm_shallow = nullptr;
#endif

#ifndef EK_SIMD_SPREAD
constexpr decltype(GemmKernels::gemm_spread) gemm_spread = nullptr;
constexpr decltype(GemmKernels::spread_rows) spread_rows = nullptr;
#endif

EK_TRADE(gemm, GemmKernels, EK_GEMM_KERNELS, table->native_sign = kNativeSign; table->tile_rows = kTileRows;
         table->tile_strips = kTileStrips;)

}  // namespace ek
