#include "kernels/depthwise.inl"
#include "kernels/depthwise_3x3.inl"
#include "kernels/depthwise_run.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(depthwise)(DepthwiseKernels* table) { EK_DEPTHWISE_KERNELS(EK_SET) }

}  // namespace ek
