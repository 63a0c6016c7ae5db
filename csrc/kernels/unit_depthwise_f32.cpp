#include "kernels/depthwise_f32.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(depthwise_f32)(F32DepthwiseKernels* table) { EK_F32_DEPTHWISE_KERNELS(EK_SET) }

}  // namespace ek
