#include "kernels/depthwise.inl"
#include "kernels/depthwise_3x3.inl"
#include "kernels/depthwise_run.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(depthwise, DepthwiseKernels, EK_DEPTHWISE_KERNELS)

}  // namespace ek
