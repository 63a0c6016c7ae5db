#include "kernels/attention_f32.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(attention_f32, F32AttentionKernels, EK_F32_ATTENTION_KERNELS)

}  // namespace ek
