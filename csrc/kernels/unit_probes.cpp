#include "kernels/probes.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(probes, ProbeKernels, EK_PROBE_KERNELS)

}  // namespace ek
