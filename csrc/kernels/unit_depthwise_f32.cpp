#include "kernels/depthwise_f32.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(depthwise_f32, F32DepthwiseKernels, EK_F32_DEPTHWISE_KERNELS)

}  // namespace ek
