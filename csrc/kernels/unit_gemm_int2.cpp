#include "kernels/gemm_int2.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(gemm_int2)(Int2Kernels* table) { EK_INT2_KERNELS(EK_SET) }

}  // namespace ek
