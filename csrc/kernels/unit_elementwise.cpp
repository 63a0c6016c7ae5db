#include "kernels/elementwise.inl"
#include "kernels/probes.inl"
#include "kernels/transpose.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(elementwise)(Kernels* table) { EK_ELEMENTWISE_KERNELS(EK_SET) }

}  // namespace ek
