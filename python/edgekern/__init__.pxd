# cimport edgekern: the C table of edgekern/edgekern.h, which says what each function does. Compile with
# edgekern.get_include() among the include folders; nothing is linked, the table comes from the imported package.
from cpython.pycapsule cimport PyCapsule_Import
from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint32_t, uint64_t


cdef extern from "edgekern/edgekern.h" nogil:
    const uint32_t EDGEKERN_ABI_VERSION
    const char* EDGEKERN_CAPSULE

    ctypedef int32_t ek_status
    const ek_status EK_OK
    const ek_status EK_ERROR_NULL
    const ek_status EK_ERROR_VALUE
    const ek_status EK_ERROR_OUT
    const ek_status EK_ERROR_DEPTH
    const ek_status EK_ERROR_LAYOUT
    const ek_status EK_ERROR_CORRUPT
    const ek_status EK_ERROR_ISA
    const ek_status EK_ERROR_MEMORY
    const ek_status EK_ERROR_INTERNAL
    const ek_status EK_ERROR_REWIND
    const ek_status EK_ERROR_FORKED

    ctypedef int32_t ek_type
    const ek_type EK_U8
    const ek_type EK_S8
    const ek_type EK_I32
    const ek_type EK_F32
    const ek_type EK_I64
    const ek_type EK_BOOL
    const ek_type EK_F64
    const ek_type EK_F16
    const ek_type EK_BF16

    ctypedef struct ek_packed:
        pass

    ctypedef struct ek_gemm:
        size_t m
        const void* a
        size_t lda
        ek_type a_type
        int32_t a_zero_point
        const ek_packed* b
        int32_t num_threads

    ctypedef struct ek_epilogue_f32:
        const float* row_scale
        const float* column_scale
        const float* bias
        float lo
        float hi

    ctypedef struct ek_epilogue_q8:
        const float* multiplier
        const int32_t* bias
        ek_type type
        int32_t zero_point
        int32_t lo
        int32_t hi

    int EK_POOL_INPUT, EK_POOL_OUTPUT, EK_POOL_INTERMEDIATE, EK_POOL_KINDS
    ctypedef int32_t ek_pool_kind

    ctypedef struct ek_pool:
        pass

    ctypedef struct ek_pool_spec:
        size_t bytes
        size_t budgets[3]

    ctypedef struct ek_pool_statistics:
        size_t bytes
        size_t used
        size_t peak
        size_t padding
        size_t largest_free
        size_t blocks
        size_t holes
        size_t used_by_kind[3]
        size_t peak_by_kind[3]

    ctypedef struct ek_kv:
        pass

    ctypedef struct ek_kv_spec:
        size_t num_layers
        size_t num_kv_heads
        size_t num_heads
        size_t head_dim
        size_t window
        size_t sinks
        size_t max_chunk
        size_t rewind
        size_t num_sequences
        const char* formats

    ctypedef struct ek_model:
        pass

    ctypedef struct ek_session:
        pass

    ctypedef int32_t ek_verify
    const ek_verify EK_VERIFY_FULL
    const ek_verify EK_VERIFY_LAZY

    ctypedef struct ek_model_info:
        size_t num_inputs
        size_t num_outputs
        size_t num_dimensions
        size_t num_sizes
        size_t num_modes
        size_t file_bytes
        const char* producer

    ctypedef struct ek_tensor_info:
        const char* name
        ek_type type
        size_t rank
        const int64_t* shape
        size_t bytes
        float scale
        int32_t zero_point

    ctypedef struct ek_dimension_info:
        const char* name
        size_t num_sizes
        const int64_t* sizes
        int32_t rows

    ctypedef struct ek_input:
        const void* data
        size_t bytes

    ctypedef struct ek_output:
        void* data
        size_t bytes

    ctypedef struct ek_step_time:
        const char* name
        const char* op
        const char* kind
        const char* path
        uint64_t nanoseconds

    ctypedef struct ek_linear:
        size_t m
        const float* x
        size_t ldx
        const ek_packed* b
        const float* column_scale
        const float* bias
        float lo
        float hi
        int32_t num_threads

    const int32_t EK_CUBE
    const int32_t EK_VECTOR

    ctypedef struct ek_tile_block:
        size_t row0
        size_t row1
        size_t col0
        size_t col1
        int32_t unit
        size_t padded_rows
        size_t padded_cols
        double cost_us

    ctypedef void (*ek_task)(void* task_context, size_t index) noexcept nogil
    ctypedef void (*ek_parallel_for)(
        void* context, size_t count, int32_t threads, ek_task task, void* task_context) noexcept nogil

    ctypedef struct ek_api:
        uint32_t abi_version
        uint32_t struct_size
        const char* (*version)() noexcept nogil
        const char* (*error_message)() noexcept nogil
        ek_status (*isa)(const char** name) noexcept nogil
        int32_t (*get_num_threads)() noexcept nogil
        void (*set_num_threads)(int32_t num_threads) noexcept nogil
        void (*set_parallel_for)(ek_parallel_for run, void* context) noexcept nogil
        ek_status (*pack_b)(
            size_t k, size_t n, const int8_t* b, ptrdiff_t stride_k, ptrdiff_t stride_n, ek_packed** packed
        ) noexcept nogil
        void (*free_packed)(ek_packed* packed) noexcept nogil
        ek_status (*packed_shape)(const ek_packed* packed, size_t* k, size_t* n) noexcept nogil
        ek_status (*packed_bytes)(const ek_packed* packed, size_t* bytes) noexcept nogil
        ek_status (*save_packed)(const ek_packed* packed, void* to, size_t bytes) noexcept nogil
        ek_status (*load_packed)(const void* bytes_in, size_t bytes, ek_packed** packed) noexcept nogil
        ek_status (*gemm_s32)(const ek_gemm* gemm, int32_t* c, size_t ldc) noexcept nogil
        ek_status (*gemm_f32)(
            const ek_gemm* gemm, const ek_epilogue_f32* epilogue, float* c, size_t ldc) noexcept nogil
        ek_status (*gemm_q8)(const ek_gemm* gemm, const ek_epilogue_q8* epilogue, void* c, size_t ldc) noexcept nogil
        ek_status (*quantize)(
            const float* x, size_t n, float scale, int32_t zero_point, ek_type type, void* y) noexcept nogil
        ek_status (*dequantize)(
            const void* x, size_t n, float scale, int32_t zero_point, ek_type type, float* y) noexcept nogil
        ek_status (*kv_create)(const ek_kv_spec* spec, ek_kv** kv) noexcept nogil
        void (*kv_free)(ek_kv* kv) noexcept nogil
        ek_status (*kv_bytes)(ek_kv* kv, size_t* bytes) noexcept nogil
        ek_status (*kv_position)(ek_kv* kv, size_t sequence, int64_t* position) noexcept nogil
        ek_status (*kv_stage)(ek_kv* kv, size_t sequence, size_t tokens) noexcept nogil
        ek_status (*kv_write)(
            ek_kv* kv, size_t sequence, size_t layer, const float* k, const float* v,
            int32_t num_threads) noexcept nogil
        ek_status (*kv_attend)(
            ek_kv* kv, size_t sequence, size_t layer, size_t tokens, const float* q, const float* q_sink, float scale,
            float* out, int32_t num_threads) noexcept nogil
        ek_status (*kv_commit)(ek_kv* kv, size_t sequence, size_t accepted) noexcept nogil
        ek_status (*kv_abort)(ek_kv* kv, size_t sequence) noexcept nogil
        ek_status (*kv_rewind)(ek_kv* kv, size_t sequence, size_t tokens) noexcept nogil
        ek_status (*kv_fork)(ek_kv* kv, size_t source, size_t target) noexcept nogil
        ek_status (*kv_reset)(ek_kv* kv, size_t sequence, int64_t position) noexcept nogil
        ek_status (*kv_save)(
            ek_kv* kv, size_t sequence, const void* model, size_t model_bytes, void* to,
            size_t room, size_t* bytes) noexcept nogil
        ek_status (*kv_load)(
            ek_kv* kv, size_t sequence, const void* model, size_t model_bytes,
            const void* bytes_in, size_t bytes) noexcept nogil
        ek_status (*model_open)(const char* path, ek_verify verify, ek_model** model) noexcept nogil
        ek_status (*model_from_bytes)(
            const void* file, size_t bytes, ek_verify verify, ek_model** model) noexcept nogil
        void (*model_close)(ek_model* model) noexcept nogil
        ek_status (*model_info)(const ek_model* model, ek_model_info* info) noexcept nogil
        ek_status (*model_input)(
            const ek_model* model, size_t size, size_t number, ek_tensor_info* info) noexcept nogil
        ek_status (*model_output)(
            const ek_model* model, size_t size, size_t number, ek_tensor_info* info) noexcept nogil
        ek_status (*model_dimension)(const ek_model* model, size_t number, ek_dimension_info* info) noexcept nogil
        ek_status (*model_mode)(const ek_model* model, size_t number, const char** name) noexcept nogil
        ek_status (*session_create)(ek_model* model, int32_t num_threads, ek_session** session) noexcept nogil
        void (*session_free)(ek_session* session) noexcept nogil
        ek_status (*session_bytes)(ek_session* session, size_t* bytes) noexcept nogil
        ek_status (*session_set_mode)(ek_session* session, const char* mode) noexcept nogil
        ek_status (*session_run)(
            ek_session* session, size_t size, const ek_input* inputs, size_t num_inputs, const ek_output* outputs,
            size_t num_outputs) noexcept nogil
        ek_status (*session_profile)(
            ek_session* session, size_t size, const ek_input* inputs, size_t num_inputs, const ek_output* outputs,
            size_t num_outputs, ek_step_time* steps, size_t room, size_t* num_steps) noexcept nogil
        ek_status (*linear_f32)(const ek_linear* linear, float* y, size_t ldy) noexcept nogil
        ek_status (*requantize)(
            const int32_t* acc, size_t n, float multiplier, int32_t zero_point, ek_type type, void* y) noexcept nogil
        ek_status (*entropy_threshold)(
            const uint64_t* counts, size_t num_bins, size_t num_levels, size_t* num_kept,
            double* divergence) noexcept nogil
        ek_status (*tile_plan)(
            size_t m, size_t n, size_t k, size_t tile, const char* device, ek_tile_block* blocks, size_t room,
            size_t* num_blocks) noexcept nogil

        ek_status (*pool_create)(const ek_pool_spec* spec, ek_pool** pool) noexcept nogil
        void (*pool_free)(ek_pool* pool) noexcept nogil
        ek_status (*pool_allocate)(ek_pool* pool, ek_pool_kind kind, size_t bytes, void** block) noexcept nogil
        ek_status (*pool_release)(ek_pool* pool, void* block) noexcept nogil
        ek_status (*pool_statistics)(ek_pool* pool, ek_pool_statistics* statistics) noexcept nogil


cdef inline const ek_api* get_api() except NULL:
    """The table of the imported package; call it once, at import."""
    cdef const ek_api* api = <const ek_api*> PyCapsule_Import(EDGEKERN_CAPSULE, 0)
    if api.abi_version != EDGEKERN_ABI_VERSION:
        raise ImportError(
            f"built against edgekern's ABI {EDGEKERN_ABI_VERSION}, but this edgekern has {api.abi_version}; rebuild")
    return api
