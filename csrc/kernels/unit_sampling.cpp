#include "kernels/sampling.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(sampling, SamplingKernels, EK_SAMPLING_KERNELS)

}  // namespace ek
