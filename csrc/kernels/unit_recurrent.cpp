#include "kernels/recurrent.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(recurrent)(RecurrentKernels* table) { EK_RECURRENT_KERNELS(EK_SET) }

}  // namespace ek
