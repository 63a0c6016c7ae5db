#include "kernels/unit.h"
#include "kernels/wide.inl"

namespace ek {

void EK_FILL(wide)(WideKernels* table) { EK_WIDE_KERNELS(EK_SET) }

}  // namespace ek
