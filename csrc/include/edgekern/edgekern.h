/* edgekern for C, C++ and Cython: one table of functions, the same in the Python package and in libedgekern.
 *
 * Getting it, from C or C++ linked with libedgekern:   const ek_api* ek = edgekern_get_api(EDGEKERN_ABI_VERSION);
 *            from an extension module of Python:        const ek_api* ek = PyCapsule_Import(EDGEKERN_CAPSULE, 0);
 *
 * Rules. Every function may be called from any number of threads at once. Nothing is thrown; a function that can fail
 * returns an ek_status, and ek->error_message() tells this thread why. An operand stays the caller's: it is read or
 * written during the call only. Results have the same bits on every CPU and for any number of threads.
 *
 * ABI. Within one EDGEKERN_ABI_VERSION functions are only added, at the table's end, and structs do not change. A
 * caller built against a newer header may meet an older table: EK_HAS(ek, function) tells.
 */
#ifndef EDGEKERN_H
#define EDGEKERN_H

#include <stddef.h>
#include <stdint.h>

#define EDGEKERN_ABI_VERSION 1u
#define EDGEKERN_CAPSULE "edgekern._C_API"

/* True when the table at hand reaches as far as `function`. */
#define EK_HAS(api, function) ((api)->struct_size >= offsetof(ek_api, function) + sizeof((api)->function))

#ifdef __cplusplus
extern "C" {
#endif

/* What went wrong. Values never change meaning; new ones may come. */
enum {
  EK_OK = 0,
  EK_ERROR_NULL = 1,     /* a pointer that must not be null */
  EK_ERROR_VALUE = 2,    /* a size, distance, type or zero point outside its range */
  EK_ERROR_OUT = 3,      /* an output that is misaligned or overlaps an input */
  EK_ERROR_DEPTH = 4,    /* K so large that the accumulator of a float or 8-bit product could wrap */
  EK_ERROR_LAYOUT = 5,   /* packed weights of another layout version: pack them again */
  EK_ERROR_CORRUPT = 6,  /* bytes that are no packed weights */
  EK_ERROR_ISA = 7,      /* EDGEKERN_ISA names an instruction set that this CPU lacks */
  EK_ERROR_MEMORY = 8,   /* out of memory */
  EK_ERROR_INTERNAL = 9, /* a bug of edgekern */
  EK_ERROR_REWIND = 10,  /* tokens that a cache no longer has */
  EK_ERROR_FORKED = 11   /* another thread was inside when this process was forked: make a new one */
};
typedef int32_t ek_status;

enum {
  EK_U8 = 0,
  EK_S8 = 1,
  /* of inputs and outputs of models alone: */
  EK_I32 = 2,
  EK_F32 = 3,
  EK_I64 = 4,
  EK_BOOL = 5,
  EK_F64 = 6,
  EK_F16 = 7,
  EK_BF16 = 8
};
typedef int32_t ek_type;

/* int8 weights in the layout that the kernels read. Immutable: any number of threads may use it at once. */
typedef struct ek_packed ek_packed;

/* A (M x K) times packed B (K x N). */
typedef struct ek_gemm {
  size_t m;
  const void* a;        /* rows of K bytes */
  size_t lda;           /* bytes from row to row, >= K */
  ek_type a_type;       /* EK_U8 or EK_S8 */
  int32_t a_zero_point; /* subtracted from every element of A; in the range of a_type */
  const ek_packed* b;
  int32_t num_threads; /* of this call; 0 is the setting of set_num_threads */
} ek_gemm;

/* y = clamp(float(acc) * (row_scale[m] * column_scale[n]) + bias[n], lo, hi), each step rounded to float; a NaN stays
   one. */
typedef struct ek_epilogue_f32 {
  const float* row_scale;    /* M values, or null for 1 */
  const float* column_scale; /* N values */
  const float* bias;         /* N values, or null */
  float lo, hi;              /* -INFINITY and INFINITY for no clamp */
} ek_epilogue_f32;

/* q = clamp(round_to_even(float(acc + bias[n]) * multiplier[n]) + zero_point, lo, hi). */
typedef struct ek_epilogue_q8 {
  const float* multiplier; /* N values: a_scale * b_scale[n] / y_scale */
  const int32_t* bias;     /* N values in units of the accumulator, or null; below 2^30 in magnitude */
  ek_type type;            /* of the result */
  int32_t zero_point;      /* in the range of `type` */
  int32_t lo, hi;          /* in the range of `type`, lo <= hi */
} ek_epilogue_q8;

/* Keys and values of a decoder, in a ring of slots behind a few sinks. Calls on one cache wait for each other. */
typedef struct ek_kv ek_kv;

typedef struct ek_kv_spec {
  size_t num_layers, num_kv_heads, num_heads, head_dim; /* head_dim: a multiple of 8, at most 512 */
  size_t window;                                        /* tokens that a query sees, itself included */
  size_t sinks;                                         /* first tokens, which it sees besides */
  size_t max_chunk;                                     /* most tokens of one transaction */
  size_t rewind;                                        /* committed tokens that can be taken back */
  size_t num_sequences;
  const char* formats; /* of K and V: "float32", "float16", "bfloat16", "int8", "k8v4", "int4" or "article" */
} ek_kv_spec;

/* A compiled model: an .ekm file that was held to its hashes. Immutable: any number of threads may use it at once. */
typedef struct ek_model ek_model;

/* What runs a model: an arena of its own and prepared steps. Calls on one session wait for each other; threads that
   shall not have a session each. It may outlive its model. */
typedef struct ek_session ek_session;

enum {
  EK_VERIFY_FULL = 0, /* every byte is compared with its hash, and held in memory: the file may go */
  EK_VERIFY_LAZY = 1  /* all but the hashes of weights; a file is mapped, and must not be changed in place */
};
typedef int32_t ek_verify;

typedef struct ek_model_info {
  size_t num_inputs, num_outputs;
  size_t num_dimensions; /* that the model has in several sizes */
  size_t num_sizes;      /* combinations of their sizes, the last dimension's side by side; 1 where there are none */
  size_t num_modes;      /* precisions; 1 where they have no names */
  size_t file_bytes;
  const char* producer; /* "edgekern 0.1.0"; as all text here, it lives as long as the model and its sessions */
} ek_model_info;

/* An input or output of one size. */
typedef struct ek_tensor_info {
  const char* name;
  ek_type type;
  size_t rank;
  const int64_t* shape;
  size_t bytes; /* of the whole array, row by row */
  float scale;  /* of EK_U8 and EK_S8: (code - zero_point) * scale is the number; 1 and 0 of other types */
  int32_t zero_point;
} ek_tensor_info;

typedef struct ek_dimension_info {
  const char* name;
  size_t num_sizes;
  const int64_t* sizes; /* ascending */
  int32_t rows;         /* 1: results of one row are independent of the others */
} ek_dimension_info;

typedef struct ek_input {
  const void* data;
  size_t bytes; /* those of its ek_tensor_info */
} ek_input;

typedef struct ek_output {
  void* data;   /* null, with 0 bytes, where the output is not wanted */
  size_t bytes; /* those of its ek_tensor_info */
} ek_output;

/* What one step of a run took. */
typedef struct ek_step_time {
  const char* name; /* of the ONNX node, the first of those in the step */
  const char* op;   /* "Conv+Relu" */
  const char* kind; /* of step: "CONV" */
  const char* path; /* the code that ran: "tile", "thin", "depthwise", ... */
  uint64_t nanoseconds;
} ek_step_time;

/* Blocks of one piece of memory by best fit. Calls on one pool wait for each other. */
typedef struct ek_pool ek_pool;

enum { EK_POOL_INPUT = 0, EK_POOL_OUTPUT = 1, EK_POOL_INTERMEDIATE = 2, EK_POOL_KINDS = 3 };
typedef int32_t ek_pool_kind;

typedef struct ek_pool_spec {
  size_t bytes;                  /* a multiple of 64 */
  size_t budgets[EK_POOL_KINDS]; /* the most bytes that each kind may hold; together at most `bytes` */
} ek_pool_spec;

typedef struct ek_pool_statistics {
  size_t bytes;        /* of the pool */
  size_t used, peak;   /* in blocks, with their padding, now and at most so far */
  size_t padding;      /* of `used`, what nobody asked for */
  size_t largest_free; /* the largest block that can be had; fragmentation is 1 - largest_free / (bytes - used) */
  size_t blocks, holes;
  size_t used_by_kind[EK_POOL_KINDS], peak_by_kind[EK_POOL_KINDS];
} ek_pool_statistics;

/* Float rows times packed weights: x is quantized row by row, max|x| / 127, and y = clamp(float(acc) * (row's scale *
   column_scale[n]) + bias[n], lo, hi). K is at most 131071. */
typedef struct ek_linear {
  size_t m;
  const float* x;
  size_t ldx; /* bytes from row to row, a multiple of 4 */
  const ek_packed* b;
  const float* column_scale; /* N values */
  const float* bias;         /* N values, or null */
  float lo, hi;              /* -INFINITY and INFINITY for no clamp */
  int32_t num_threads;       /* of this call; 0 is the setting of set_num_threads */
} ek_linear;

enum { EK_CUBE = 0, EK_VECTOR = 1 };

/* A block of C, half-open, the unit that takes it, what that computes, and what it is expected to cost on one core. */
typedef struct ek_tile_block {
  size_t row0, row1, col0, col1;
  int32_t unit; /* EK_CUBE or EK_VECTOR */
  size_t padded_rows, padded_cols;
  double cost_us;
} ek_tile_block;

/* One task of a parallel loop. */
typedef void (*ek_task)(void* task_context, size_t index);
/* Runs task(task_context, 0 .. count-1), each once, on at most `threads` threads, and returns when all are done. */
typedef void (*ek_parallel_for)(void* context, size_t count, int32_t threads, ek_task task, void* task_context);

typedef struct ek_api {
  uint32_t abi_version; /* EDGEKERN_ABI_VERSION of the library */
  uint32_t struct_size; /* bytes of the library's table */

  const char* (*version)(void);        /* of the package, "0.1.0" */
  const char* (*error_message)(void);  /* why this thread's last failed call failed; valid until its next failure */
  ek_status (*isa)(const char** name); /* the instruction set in use: EDGEKERN_ISA or the best */

  int32_t (*get_num_threads)(void);
  void (*set_num_threads)(int32_t num_threads); /* brought into [1, 1024] */
  /* Lends the host's threads; null gives edgekern its own again. Call it while no product is running. */
  void (*set_parallel_for)(ek_parallel_for run, void* context);

  /* B[k][n] stands at b[k * stride_k + n * stride_n]; strides may be negative. The handle goes to free_packed. */
  ek_status (*pack_b)(size_t k, size_t n, const int8_t* b, ptrdiff_t stride_k, ptrdiff_t stride_n, ek_packed** packed);
  void (*free_packed)(ek_packed* packed); /* null is allowed */
  ek_status (*packed_shape)(const ek_packed* packed, size_t* k, size_t* n);
  /* To bytes and back. A file outlives the library: weights of another layout version are refused (EK_ERROR_LAYOUT). */
  ek_status (*packed_bytes)(const ek_packed* packed, size_t* bytes);
  ek_status (*save_packed)(const ek_packed* packed, void* to, size_t bytes);
  ek_status (*load_packed)(const void* from, size_t bytes, ek_packed** packed);

  /* C rows are ldc bytes apart; C is aligned to its elements and overlaps no input. int32 wraps modulo 2^32. */
  ek_status (*gemm_s32)(const ek_gemm* gemm, int32_t* c, size_t ldc);
  ek_status (*gemm_f32)(const ek_gemm* gemm, const ek_epilogue_f32* epilogue, float* c, size_t ldc);
  ek_status (*gemm_q8)(const ek_gemm* gemm, const ek_epilogue_q8* epilogue, void* c, size_t ldc);

  /* y = clamp(round_to_even(x / scale) + zero_point) and y = float(x - zero_point) * scale, n elements. */
  ek_status (*quantize)(const float* x, size_t n, float scale, int32_t zero_point, ek_type type, void* y);
  ek_status (*dequantize)(const void* x, size_t n, float scale, int32_t zero_point, ek_type type, float* y);

  /* A ring cache. Its memory is taken here and never grows; the handle goes to kv_free. */
  ek_status (*kv_create)(const ek_kv_spec* spec, ek_kv** kv);
  void (*kv_free)(ek_kv* kv); /* null is allowed */
  ek_status (*kv_bytes)(ek_kv* kv, size_t* bytes);
  ek_status (*kv_position)(ek_kv* kv, size_t sequence, int64_t* position); /* of the next token */
  /* A transaction: stage, then for every layer write and attend, then commit what was accepted, or abort. */
  ek_status (*kv_stage)(ek_kv* kv, size_t sequence, size_t tokens);
  /* (tokens, num_kv_heads, head_dim), K after RoPE. A value that cannot be stored aborts the transaction. */
  ek_status (*kv_write)(ek_kv* kv, size_t sequence, size_t layer, const float* k, const float* v, int32_t num_threads);
  /* (tokens, num_heads, head_dim). q_sink scores the sinks; null: q. out overlaps neither. */
  ek_status (*kv_attend)(ek_kv* kv, size_t sequence, size_t layer, size_t tokens, const float* q, const float* q_sink,
                         float scale, float* out, int32_t num_threads);
  ek_status (*kv_commit)(ek_kv* kv, size_t sequence, size_t accepted);
  ek_status (*kv_abort)(ek_kv* kv, size_t sequence);
  ek_status (*kv_rewind)(ek_kv* kv, size_t sequence, size_t tokens); /* or EK_ERROR_REWIND */
  ek_status (*kv_fork)(ek_kv* kv, size_t source, size_t target);
  ek_status (*kv_reset)(ek_kv* kv, size_t sequence, int64_t position);
  /* `model` is any mark that tells models apart. save says the size, and writes when `room` suffices. */
  ek_status (*kv_save)(ek_kv* kv, size_t sequence, const void* model, size_t model_bytes, void* to, size_t room,
                       size_t* bytes);
  ek_status (*kv_load)(ek_kv* kv, size_t sequence, const void* model, size_t model_bytes, const void* from,
                       size_t bytes);

  /* A compiled model from a file, or from its bytes, which are copied. A model with host steps is refused by name. */
  ek_status (*model_open)(const char* path, ek_verify verify, ek_model** model);
  ek_status (*model_from_bytes)(const void* file, size_t bytes, ek_verify verify, ek_model** model);
  void (*model_close)(ek_model* model); /* null is allowed; sessions go on */
  ek_status (*model_info)(const ek_model* model, ek_model_info* info);
  ek_status (*model_input)(const ek_model* model, size_t size, size_t number, ek_tensor_info* info);
  ek_status (*model_output)(const ek_model* model, size_t size, size_t number, ek_tensor_info* info);
  ek_status (*model_dimension)(const ek_model* model, size_t number, ek_dimension_info* info);
  ek_status (*model_mode)(const ek_model* model, size_t number, const char** name); /* "" where it has no name */
  /* Takes all memory here: runs allocate nothing. The handle goes to session_free. */
  ek_status (*session_create)(ek_model* model, int32_t num_threads, ek_session** session);
  void (*session_free)(ek_session* session);                            /* null is allowed */
  ek_status (*session_bytes)(ek_session* session, size_t* bytes);       /* that it has beside the model's */
  ek_status (*session_set_mode)(ek_session* session, const char* mode); /* for runs that begin after this */
  /* All inputs and outputs of a size, in the model's order. Outputs overlap neither inputs nor each other. */
  ek_status (*session_run)(ek_session* session, size_t size, const ek_input* inputs, size_t num_inputs,
                           const ek_output* outputs, size_t num_outputs);
  /* A run whose steps are timed. Says how many there are, and tells of the first `room`. */
  ek_status (*session_profile)(ek_session* session, size_t size, const ek_input* inputs, size_t num_inputs,
                               const ek_output* outputs, size_t num_outputs, ek_step_time* steps, size_t room,
                               size_t* num_steps);

  ek_status (*linear_f32)(const ek_linear* linear, float* y, size_t ldy);
  /* y = clamp(round_to_even(float(acc) * multiplier) + zero_point), n elements. */
  ek_status (*requantize)(const int32_t* acc, size_t n, float multiplier, int32_t zero_point, ek_type type, void* y);
  /* Of least relative entropy, over a histogram of |x|: the threshold lies at (num_kept + 0.5) bins, or at the end of
     the last one. num_levels is 128 for 8 bits; divergence may be null. */
  ek_status (*entropy_threshold)(const uint64_t* counts, size_t num_bins, size_t num_levels, size_t* num_kept,
                                 double* divergence);
  /* How C (M x N) is cut into tiles on "host", "ascend310p3", ... Says how many there are, and tells the first `room`.
   */
  ek_status (*tile_plan)(size_t m, size_t n, size_t k, size_t tile, const char* device, ek_tile_block* blocks,
                         size_t room, size_t* num_blocks);

  /* A pool. Its memory is taken here; the handle goes to pool_free, and its blocks go with it. */
  ek_status (*pool_create)(const ek_pool_spec* spec, ek_pool** pool);
  void (*pool_free)(ek_pool* pool); /* null is allowed */
  /* Starts at a multiple of 64. EK_ERROR_MEMORY where a budget is used up or no hole is as large. */
  ek_status (*pool_allocate)(ek_pool* pool, ek_pool_kind kind, size_t bytes, void** block);
  ek_status (*pool_release)(ek_pool* pool, void* block); /* null is allowed; a block of now, once */
  ek_status (*pool_statistics)(ek_pool* pool, ek_pool_statistics* statistics);
} ek_api;

/* The table, or null when this library does not speak `abi_version`. It lives as long as the process. */
const ek_api* edgekern_get_api(uint32_t abi_version);

/* For threadpoolctl and its like. */
int32_t ek_get_num_threads(void);
void ek_set_num_threads(int32_t num_threads);

#ifdef __cplusplus
}
#endif
#endif
