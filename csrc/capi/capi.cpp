// The C table: what it holds, and who may have it.
#include "capi/capi.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>

#include "base/checked.h"
#include "base/fp_env.h"
#include "capi/failure.h"
#include "cpu/isa.h"
#include "elementwise/elementwise.h"
#include "threads/pool.h"

namespace ek {
namespace {

thread_local char t_failure[1024] = "";  // room for a path and what is wrong with its file

ek_status current_isa(const char* function, Isa* isa) {
  const Status& status = default_isa(isa);
  return status.ok() ? EK_OK : fail(EK_ERROR_ISA, "%s: %s", function, status.message().c_str());
}

ek_status isa_in_use(const char** name) {
  return no_throw("isa", [&]() -> ek_status {
    if (name == nullptr) return fail(EK_ERROR_NULL, "isa: name is null");
    Isa isa = Isa::kScalar;
    const ek_status status = current_isa("isa", &isa);
    if (status == EK_OK) *name = isa_name(isa);
    return status;
  });
}

/// What quantize and dequantize ask of their operands; x and y are arrays of x_item and y_item bytes an element.
ek_status check_elements(const char* function, const void* x, size_t x_item, const void* y, size_t y_item, size_t n,
                         float scale, int32_t zero_point, ek_type type) {
  if ((x == nullptr || y == nullptr) && n != 0) return fail(EK_ERROR_NULL, "%s: x or y is null", function);
  if (type != EK_U8 && type != EK_S8) {
    return fail(EK_ERROR_VALUE, "%s: type must be EK_U8 or EK_S8, got %d", function, type);
  }
  const int32_t lowest = type == EK_U8 ? 0 : -128;
  if (zero_point < lowest || zero_point > lowest + 255) {
    return fail(EK_ERROR_VALUE, "%s: zero_point %d lies outside the range of type", function, zero_point);
  }
  if (!std::isfinite(scale) || scale <= 0) {
    return fail(EK_ERROR_VALUE, "%s: scale must be positive and finite, got %g", function, double{scale});
  }
  size_t bytes = 0;
  if (!checked_mul(n, sizeof(float), &bytes)) return fail(EK_ERROR_VALUE, "%s: n is too large", function);
  if (reinterpret_cast<uintptr_t>(x) % x_item != 0) {
    return fail(EK_ERROR_VALUE, "%s: x must start at a multiple of %zu bytes", function, x_item);
  }
  if (reinterpret_cast<uintptr_t>(y) % y_item != 0) {
    return fail(EK_ERROR_OUT, "%s: y must start at a multiple of %zu bytes", function, y_item);
  }
  if (overlap(x, n * x_item, y, n * y_item)) return fail(EK_ERROR_OUT, "%s: y overlaps x", function);
  return EK_OK;
}

Sign sign_of(ek_type type) { return type == EK_U8 ? Sign::kU8 : Sign::kS8; }

ek_status quantize_elements(const float* x, size_t n, float scale, int32_t zero_point, ek_type type, void* y) {
  return no_throw("quantize", [&]() -> ek_status {
    const FpGuard guard;  // before the checks: a denormal scale is no zero
    Isa isa = Isa::kScalar;
    ek_status status = check_elements("quantize", x, sizeof(float), y, 1, n, scale, zero_point, type);
    if (status == EK_OK) status = current_isa("quantize", &isa);
    if (status != EK_OK) return status;
    quantize({&kernels(isa), num_threads()}, x, n, {scale, zero_point, sign_of(type)}, static_cast<uint8_t*>(y));
    return EK_OK;
  });
}

ek_status dequantize_elements(const void* x, size_t n, float scale, int32_t zero_point, ek_type type, float* y) {
  return no_throw("dequantize", [&]() -> ek_status {
    const FpGuard guard;  // before the checks: a denormal scale is no zero
    Isa isa = Isa::kScalar;
    ek_status status = check_elements("dequantize", x, 1, y, sizeof(float), n, scale, zero_point, type);
    if (status == EK_OK) status = current_isa("dequantize", &isa);
    if (status != EK_OK) return status;
    dequantize({&kernels(isa), num_threads()}, static_cast<const uint8_t*>(x), n, {scale, zero_point, sign_of(type)},
               y);
    return EK_OK;
  });
}

const ek_api kTable = {
    EDGEKERN_ABI_VERSION,
    sizeof(ek_api),
    [] { return EDGEKERN_VERSION; },
    [] { return last_failure(); },
    isa_in_use,
    ek_get_num_threads,
    ek_set_num_threads,
    set_host_threads,
    capi_pack_b,
    capi_free_packed,
    capi_packed_shape,
    capi_packed_bytes,
    capi_save_packed,
    capi_load_packed,
    capi_gemm_s32,
    capi_gemm_f32,
    capi_gemm_q8,
    quantize_elements,
    dequantize_elements,
    capi_kv_create,
    capi_kv_free,
    capi_kv_bytes,
    capi_kv_position,
    capi_kv_stage,
    capi_kv_write,
    capi_kv_attend,
    capi_kv_commit,
    capi_kv_abort,
    capi_kv_rewind,
    capi_kv_fork,
    capi_kv_reset,
    capi_kv_save,
    capi_kv_load,
    capi_model_open,
    capi_model_from_bytes,
    capi_model_close,
    capi_model_info,
    capi_model_input,
    capi_model_output,
    capi_model_dimension,
    capi_model_mode,
    capi_session_create,
    capi_session_free,
    capi_session_bytes,
    capi_session_set_mode,
    capi_session_run,
    capi_session_profile,
    capi_linear_f32,
    capi_requantize,
    capi_entropy_threshold,
    capi_tile_plan,
    capi_pool_create,
    capi_pool_free,
    capi_pool_allocate,
    capi_pool_release,
    capi_pool_statistics,
};

}  // namespace

ek_status fail(ek_status code, const char* format, ...) noexcept {
  va_list values;
  va_start(values, format);
  std::vsnprintf(t_failure, sizeof t_failure, format, values);
  va_end(values);
  return code;
}

const char* last_failure() noexcept { return t_failure; }

ek_status status_of(const char* function, const Status& status) noexcept {
  ek_status code = EK_ERROR_VALUE;
  if (status.ok()) return EK_OK;
  if (status.code() == Code::kCorrupt) code = EK_ERROR_CORRUPT;
  if (status.code() == Code::kNoMemory) code = EK_ERROR_MEMORY;
  if (status.code() == Code::kRewind) code = EK_ERROR_REWIND;
  if (status.code() == Code::kUnsupportedIsa) code = EK_ERROR_ISA;
  if (status.code() == Code::kForked) code = EK_ERROR_FORKED;
  return fail(code, "%s: %s", function, status.message().c_str());
}

ek_status runtime_of(const char* function, int32_t threads, Runtime* rt) noexcept {
  if (threads < 0 || threads > kMaxThreads) {
    return fail(EK_ERROR_VALUE, "%s: num_threads must lie in [0, %d], got %d", function, kMaxThreads, threads);
  }
  Isa isa = Isa::kScalar;
  const ek_status status = status_of(function, default_isa(&isa));
  *rt = {&kernels(isa), threads == 0 ? num_threads() : threads};
  return status;
}

}  // namespace ek

const ek_api* edgekern_get_api(uint32_t abi_version) {
  if (abi_version == EDGEKERN_ABI_VERSION) return &ek::kTable;
  ek::fail(EK_ERROR_VALUE, "edgekern_get_api: ABI version %u was asked for; this library has %u", abi_version,
           EDGEKERN_ABI_VERSION);
  return nullptr;
}

int32_t ek_get_num_threads(void) { return ek::num_threads(); }
void ek_set_num_threads(int32_t num_threads) { ek::set_num_threads(num_threads); }
