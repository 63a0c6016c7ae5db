#include "kernels/elementwise.inl"
#include "kernels/transpose.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(elementwise, ElementwiseKernels, EK_ELEMENTWISE_KERNELS)

}  // namespace ek
