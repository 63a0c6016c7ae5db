#include "kernels/sampling.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(sampling)(SamplingKernels* table) { EK_SAMPLING_KERNELS(EK_SET) }

}  // namespace ek
