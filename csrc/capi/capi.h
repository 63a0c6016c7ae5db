// The functions behind the C table, and packed weights as it hands them out.
#pragma once

#include "base/buffer.h"
#include "edgekern/edgekern.h"
#include "gemm/pack.h"

struct ek_packed {
  ek::PackedShape shape;
  ek::AlignedBuffer data;
};

namespace ek {

ek_status capi_pack_b(size_t k, size_t n, const int8_t* b, ptrdiff_t stride_k, ptrdiff_t stride_n, ek_packed** packed);
void capi_free_packed(ek_packed* packed);
ek_status capi_packed_shape(const ek_packed* packed, size_t* k, size_t* n);
ek_status capi_packed_bytes(const ek_packed* packed, size_t* bytes);
ek_status capi_save_packed(const ek_packed* packed, void* to, size_t bytes);
ek_status capi_load_packed(const void* from, size_t bytes, ek_packed** packed);

ek_status capi_gemm_s32(const ek_gemm* gemm, int32_t* c, size_t ldc);
ek_status capi_gemm_f32(const ek_gemm* gemm, const ek_epilogue_f32* epilogue, float* c, size_t ldc);
ek_status capi_gemm_q8(const ek_gemm* gemm, const ek_epilogue_q8* epilogue, void* c, size_t ldc);

ek_status capi_kv_create(const ek_kv_spec* spec, ek_kv** kv);
void capi_kv_free(ek_kv* kv);
ek_status capi_kv_bytes(ek_kv* kv, size_t* bytes);
ek_status capi_kv_position(ek_kv* kv, size_t sequence, int64_t* position);
ek_status capi_kv_stage(ek_kv* kv, size_t sequence, size_t tokens);
ek_status capi_kv_write(ek_kv* kv, size_t sequence, size_t layer, const float* k, const float* v, int32_t num_threads);
ek_status capi_kv_attend(ek_kv* kv, size_t sequence, size_t layer, size_t tokens, const float* q, const float* q_sink,
                         float scale, float* out, int32_t num_threads);
ek_status capi_kv_commit(ek_kv* kv, size_t sequence, size_t accepted);
ek_status capi_kv_abort(ek_kv* kv, size_t sequence);
ek_status capi_kv_rewind(ek_kv* kv, size_t sequence, size_t tokens);
ek_status capi_kv_fork(ek_kv* kv, size_t source, size_t target);
ek_status capi_kv_reset(ek_kv* kv, size_t sequence, int64_t position);
ek_status capi_kv_save(ek_kv* kv, size_t sequence, const void* model, size_t model_bytes, void* to, size_t room,
                       size_t* bytes);
ek_status capi_kv_load(ek_kv* kv, size_t sequence, const void* model, size_t model_bytes, const void* from,
                       size_t bytes);

}  // namespace ek
