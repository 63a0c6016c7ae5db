// simd_neon_dotprod: NEON with sdot (Armv8.2 dotprod: Cortex-A55/A75 and later).
#pragma once

#include "simd/simd_neon_sdot.h"

namespace ek {
namespace {

constexpr Isa kIsa = Isa::kNeonDotprod;
constexpr Sign kNativeSign = Sign::kS8;
constexpr int kTileRows = 6, kTileStrips = 1;
constexpr int kF32TileRows = 6, kF32Sums = 6;  // 24 registers of sums, 4 of weights, 1 of x

}  // namespace
}  // namespace ek
