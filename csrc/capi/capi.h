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

ek_status capi_model_open(const char* path, ek_verify verify, ek_model** model);
ek_status capi_model_from_bytes(const void* file, size_t bytes, ek_verify verify, ek_model** model);
void capi_model_close(ek_model* model);
ek_status capi_model_info(const ek_model* model, ek_model_info* info);
ek_status capi_model_input(const ek_model* model, size_t size, size_t number, ek_tensor_info* info);
ek_status capi_model_output(const ek_model* model, size_t size, size_t number, ek_tensor_info* info);
ek_status capi_model_dimension(const ek_model* model, size_t number, ek_dimension_info* info);
ek_status capi_model_mode(const ek_model* model, size_t number, const char** name);

ek_status capi_session_create(ek_model* model, int32_t num_threads, ek_session** session);
void capi_session_free(ek_session* session);
ek_status capi_session_bytes(ek_session* session, size_t* bytes);
ek_status capi_session_set_mode(ek_session* session, const char* mode);
ek_status capi_session_run(ek_session* session, size_t size, const ek_input* inputs, size_t num_inputs,
                           const ek_output* outputs, size_t num_outputs);
ek_status capi_session_profile(ek_session* session, size_t size, const ek_input* inputs, size_t num_inputs,
                               const ek_output* outputs, size_t num_outputs, ek_step_time* steps, size_t room,
                               size_t* num_steps);

ek_status capi_pool_create(const ek_pool_spec* spec, ek_pool** pool);
void capi_pool_free(ek_pool* pool);
ek_status capi_pool_allocate(ek_pool* pool, ek_pool_kind kind, size_t bytes, void** block);
ek_status capi_pool_release(ek_pool* pool, void* block);
ek_status capi_pool_statistics(ek_pool* pool, ek_pool_statistics* statistics);
ek_status capi_linear_f32(const ek_linear* linear, float* y, size_t ldy);
ek_status capi_requantize(const int32_t* acc, size_t n, float multiplier, int32_t zero_point, ek_type type, void* y);
ek_status capi_entropy_threshold(const uint64_t* counts, size_t num_bins, size_t num_levels, size_t* num_kept,
                                 double* divergence);
ek_status capi_tile_plan(size_t m, size_t n, size_t k, size_t tile, const char* device, ek_tile_block* blocks,
                         size_t room, size_t* num_blocks);

}  // namespace ek
