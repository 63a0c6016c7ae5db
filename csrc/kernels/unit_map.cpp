#include "kernels/map.inl"
#include "kernels/map_i64.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(map)(MapKernels* table) { EK_MAP_KERNELS(EK_SET) }

}  // namespace ek
