#include "kernels/map.inl"
#include "kernels/map_i64.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(map, MapKernels, EK_MAP_KERNELS)

}  // namespace ek
