#include "kernels/attention.inl"
#include "kernels/kv_store.inl"
#include "kernels/unit.h"

namespace ek {

void EK_FILL(kv)(KvKernels* table) {
  table->kv_quantize = kv_quantize;
  table->kv_quantize_query = kv_quantize_query;
  table->kv_attend = kv_attend;
  table->kv_merge = kv_merge;
  table->kv_finish = kv_finish;
}

}  // namespace ek
