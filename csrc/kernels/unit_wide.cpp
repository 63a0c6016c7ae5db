#include "kernels/unit.h"
#include "kernels/wide.inl"

namespace ek {

EK_TRADE(wide, WideKernels, EK_WIDE_KERNELS)

}  // namespace ek
