#include "kernels/depthwise.inl"
#include "kernels/depthwise_3x3.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(depthwise)(DepthwiseKernels* table) {
  table->depthwise_row = depthwise_row;
  table->depthwise_3x3 = depthwise_3x3;
}

}  // namespace ek
