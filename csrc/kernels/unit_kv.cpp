#include "kernels/attention.inl"
#include "kernels/kv_store.inl"
#include "kernels/unit.h"

namespace ek {

EK_TRADE(kv, KvKernels, EK_KV_KERNELS)

}  // namespace ek
