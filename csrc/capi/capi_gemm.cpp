// Products for C: every operand is checked here, because nothing below checks again.
#include <optional>

#include "base/checked.h"
#include "base/fp_env.h"
#include "capi/capi.h"
#include "capi/failure.h"
#include "gemm/gemm.h"
#include "gemm/workspace.h"
#include "threads/pool.h"

namespace ek {
namespace {

struct Span {
  const char* name;
  const void* data;
  size_t bytes;
};

/// Rows that are `stride` bytes apart and `last` long.
bool span_bytes(size_t rows, size_t stride, size_t last, size_t* bytes) {
  *bytes = 0;
  if (rows == 0 || last == 0) return true;
  return checked_mul(rows - 1, stride, bytes) && checked_add(*bytes, last, bytes);
}

bool in_range(ek_type type, int32_t value) {
  const int32_t lowest = type == EK_U8 ? 0 : -128;
  return value >= lowest && value <= lowest + 255;
}

/// One product on its way from the caller's structs to GemmArgs.
struct Call {
  explicit Call(const char* name) : function(name) {}

  const char* function;
  Runtime rt{nullptr};
  GemmArgs args;
  int32_t zero_point = 0;
  Span a{"a", nullptr, 0}, c{"c", nullptr, 0};

  ek_status take_operands(const ek_gemm* gemm);
  ek_status take_out(void* out, size_t ldc, size_t item);
  ek_status check_depth() const;
  /// A vector of `count` floats or int32 that `out` must leave alone.
  ek_status check_vector(const char* name, const void* data, size_t count) const;
  ek_status run(const int32_t* bias);
};

ek_status Call::take_operands(const ek_gemm* gemm) {
  if (gemm == nullptr || gemm->b == nullptr) return fail(EK_ERROR_NULL, "%s: gemm or gemm->b is null", function);
  const size_t k = gemm->b->shape.k_per_tap;
  if (gemm->a_type != EK_U8 && gemm->a_type != EK_S8) {
    return fail(EK_ERROR_VALUE, "%s: a_type must be EK_U8 or EK_S8, got %d", function, gemm->a_type);
  }
  if (!in_range(gemm->a_type, gemm->a_zero_point)) {
    return fail(EK_ERROR_VALUE, "%s: a_zero_point %d lies outside the range of a_type", function, gemm->a_zero_point);
  }
  if (gemm->num_threads < 0) {
    return fail(EK_ERROR_VALUE, "%s: num_threads must be at least 0, got %d", function, gemm->num_threads);
  }
  if (gemm->a == nullptr && gemm->m != 0 && k != 0) return fail(EK_ERROR_NULL, "%s: a is null", function);
  if (gemm->lda < k) return fail(EK_ERROR_VALUE, "%s: lda is %zu but a row has %zu bytes", function, gemm->lda, k);
  a.data = gemm->a;
  if (!span_bytes(gemm->m, gemm->lda, k, &a.bytes)) {
    return fail(EK_ERROR_VALUE, "%s: a passes the end of the address space", function);
  }
  Isa isa = Isa::kScalar;
  if (const Status& status = default_isa(&isa); !status.ok()) {
    return fail(EK_ERROR_ISA, "%s: %s", function, status.message().c_str());
  }
  rt = {&kernels(isa), gemm->num_threads == 0 ? num_threads() : gemm->num_threads};
  args.m = gemm->m;
  args.a = static_cast<const uint8_t*>(gemm->a);
  args.lda = gemm->lda;
  args.a_sign = gemm->a_type == EK_U8 ? Sign::kU8 : Sign::kS8;
  args.b = {gemm->b->shape, gemm->b->data.data()};
  zero_point = gemm->a_zero_point;
  return EK_OK;
}

ek_status Call::take_out(void* out, size_t ldc, size_t item) {
  const size_t n = args.b.shape.n;
  if (out == nullptr && args.m != 0 && n != 0) return fail(EK_ERROR_NULL, "%s: c is null", function);
  size_t row = 0;
  if (!checked_mul(n, item, &row) || ldc < row) {
    return fail(EK_ERROR_VALUE, "%s: ldc is %zu but a row has %zu elements of %zu bytes", function, ldc, n, item);
  }
  c.data = out;
  if (!span_bytes(args.m, ldc, row, &c.bytes)) {
    return fail(EK_ERROR_VALUE, "%s: c passes the end of the address space", function);
  }
  if (reinterpret_cast<uintptr_t>(out) % item != 0 || ldc % item != 0) {
    return fail(EK_ERROR_OUT, "%s: c and ldc must be multiples of %zu bytes", function, item);
  }
  if (overlap(a.data, a.bytes, out, c.bytes)) return fail(EK_ERROR_OUT, "%s: c overlaps a", function);
  args.c = out;
  args.ldc = ldc;
  return EK_OK;
}

ek_status Call::check_depth() const {
  const size_t k = args.b.shape.k_per_tap;
  if (k <= kMaxDepth) return EK_OK;
  return fail(EK_ERROR_DEPTH, "%s: K is %zu; more than %zu could pass 2^31 in the accumulator; split K", function, k,
              kMaxDepth);
}

ek_status Call::check_vector(const char* name, const void* data, size_t count) const {
  if (reinterpret_cast<uintptr_t>(data) % sizeof(float) != 0) {
    return fail(EK_ERROR_VALUE, "%s: %s must start at a multiple of 4 bytes", function, name);
  }
  if (data == nullptr || !overlap(data, count * sizeof(float), c.data, c.bytes)) return EK_OK;
  return fail(EK_ERROR_OUT, "%s: c overlaps %s", function, name);
}

ek_status Call::run(const int32_t* bias) {
  Workspace work(*rt.kernels, &args, zero_point, bias);
  args.epilogue.multiplier = work.padded(0, args.epilogue.multiplier, args.b.shape.n);
  args.epilogue.bias = work.padded(1, args.epilogue.bias, args.b.shape.n);
  std::optional<FpGuard> guard;  // changing the control word empties the pipeline; sums of integers need no rounding
  if (args.epilogue.kind != OutKind::kInt32) guard.emplace();
  gemm(rt, args);
  return EK_OK;
}

}  // namespace

/// Returns early with the status of `expr` when it is not EK_OK.
#define EK_RETURN_IF_FAILED(expr)                         \
  do {                                                    \
    if (const ek_status s = (expr); s != EK_OK) return s; \
  } while (0)

ek_status capi_gemm_s32(const ek_gemm* gemm, int32_t* c, size_t ldc) {
  return no_throw("gemm_s32", [&]() -> ek_status {
    Call call("gemm_s32");
    EK_RETURN_IF_FAILED(call.take_operands(gemm));
    EK_RETURN_IF_FAILED(call.take_out(c, ldc, sizeof *c));
    return call.run(nullptr);
  });
}

ek_status capi_gemm_f32(const ek_gemm* gemm, const ek_epilogue_f32* epilogue, float* c, size_t ldc) {
  return no_throw("gemm_f32", [&]() -> ek_status {
    Call call("gemm_f32");
    EK_RETURN_IF_FAILED(call.take_operands(gemm));
    EK_RETURN_IF_FAILED(call.check_depth());
    EK_RETURN_IF_FAILED(call.take_out(c, ldc, sizeof *c));
    const size_t n = call.args.b.shape.n;
    if (epilogue == nullptr || (epilogue->column_scale == nullptr && n != 0)) {
      return fail(EK_ERROR_NULL, "gemm_f32: epilogue or its column_scale is null");
    }
    if (!(epilogue->lo <= epilogue->hi)) return fail(EK_ERROR_VALUE, "gemm_f32: lo must be at most hi");
    EK_RETURN_IF_FAILED(call.check_vector("row_scale", epilogue->row_scale, call.args.m));
    EK_RETURN_IF_FAILED(call.check_vector("column_scale", epilogue->column_scale, n));
    EK_RETURN_IF_FAILED(call.check_vector("bias", epilogue->bias, n));
    Epilogue& e = call.args.epilogue;
    e.kind = OutKind::kFloat32;
    e.multiplier = epilogue->column_scale;
    e.row_scale = epilogue->row_scale;
    e.bias = epilogue->bias;
    e.lo = epilogue->lo;
    e.hi = epilogue->hi;
    return call.run(nullptr);
  });
}

ek_status capi_gemm_q8(const ek_gemm* gemm, const ek_epilogue_q8* epilogue, void* c, size_t ldc) {
  return no_throw("gemm_q8", [&]() -> ek_status {
    Call call("gemm_q8");
    EK_RETURN_IF_FAILED(call.take_operands(gemm));
    EK_RETURN_IF_FAILED(call.check_depth());
    EK_RETURN_IF_FAILED(call.take_out(c, ldc, 1));
    const size_t n = call.args.b.shape.n;
    if (epilogue == nullptr || (epilogue->multiplier == nullptr && n != 0)) {
      return fail(EK_ERROR_NULL, "gemm_q8: epilogue or its multiplier is null");
    }
    const ek_epilogue_q8& given = *epilogue;
    if (given.type != EK_U8 && given.type != EK_S8) {
      return fail(EK_ERROR_VALUE, "gemm_q8: type must be EK_U8 or EK_S8, got %d", given.type);
    }
    if (!in_range(given.type, given.zero_point) || !in_range(given.type, given.lo) || !in_range(given.type, given.hi) ||
        given.lo > given.hi) {
      return fail(EK_ERROR_VALUE, "gemm_q8: zero_point %d, lo %d and hi %d must lie in the range of type, lo <= hi",
                  given.zero_point, given.lo, given.hi);
    }
    EK_RETURN_IF_FAILED(call.check_vector("multiplier", given.multiplier, n));
    EK_RETURN_IF_FAILED(call.check_vector("bias", given.bias, n));
    constexpr int32_t kMaxBias = 1 << 30;
    for (size_t i = 0; given.bias != nullptr && i < n; ++i) {
      if (given.bias[i] <= -kMaxBias || given.bias[i] >= kMaxBias) {
        return fail(EK_ERROR_VALUE, "gemm_q8: bias[%zu] is %d; its magnitude must stay below 2^30", i, given.bias[i]);
      }
    }
    Epilogue& e = call.args.epilogue;
    e.kind = OutKind::kQuantized;
    e.multiplier = given.multiplier;
    e.out = {1.0f, given.zero_point, given.type == EK_U8 ? Sign::kU8 : Sign::kS8};
    e.lo = static_cast<float>(given.lo - given.zero_point);
    e.hi = static_cast<float>(given.hi - given.zero_point);
    return call.run(given.bias);
  });
}

}  // namespace ek
