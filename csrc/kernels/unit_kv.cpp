#include "kernels/attention.inl"
#include "kernels/kv_store.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(kv)(KvKernels* table) { EK_KV_KERNELS(EK_SET) }

}  // namespace ek
