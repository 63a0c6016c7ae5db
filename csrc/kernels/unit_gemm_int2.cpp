#include "kernels/gemm_int2.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(gemm_int2, Int2Kernels, EK_INT2_KERNELS)

}  // namespace ek
