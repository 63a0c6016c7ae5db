#include "kernels/recurrent.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(recurrent, RecurrentKernels, EK_RECURRENT_KERNELS)

}  // namespace ek
