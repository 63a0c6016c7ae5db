#include "kernels/elementwise.inl"
#include "kernels/probes.inl"
#include "kernels/transpose.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(elementwise)(ElementwiseKernels* table) { EK_ELEMENTWISE_KERNELS(EK_SET) }

void EK_FILL(probes)(ProbeKernels* table) { EK_PROBE_KERNELS(EK_SET) }

}  // namespace ek
