#include "kernels/attention_f32.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(attention_f32)(F32AttentionKernels* table) { EK_F32_ATTENTION_KERNELS(EK_SET) }

}  // namespace ek
