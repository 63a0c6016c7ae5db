// MatMul of two 8-bit tensors, batch by batch: the second is int8 with zero point 0.
//
//   in a b | no blobs
#include "gemm/matmul.h"

#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

struct Matmul {
  size_t batch = 0, rows = 0, k = 0, columns = 0;
  float multiplier = 1, lo = 0, hi = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("batch", batch);
    a.size("rows", rows);
    a.size("k", k);
    a.size("columns", columns);
    a.real("multiplier", multiplier);
    a.real("lo", lo);
    a.real("hi", hi);
  }

  uint64_t macs() const {
    size_t all = 0;
    return product({batch, rows, k, columns}, &all) ? all : 0;
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 2, 0)) return bad_step(step, "wrong number of operands");
    const TensorDef &a = input(index, step), &b = input(index, step, 1), &c = output(index, step);
    if (!is_quantized(a.dtype) || b.dtype != DType::kS8 || b.zero_point != 0)
      return bad_step(step, "inputs must be 8-bit, the second int8 with zero point 0");
    if (k > kMaxDepth) return bad_step(step, "sums can pass 2^31");
    if (!holds(a, {batch, rows, k}) || !holds(b, {batch, k, columns}) || !holds(c, {batch, rows, columns}))
      return bad_step(step, "tensor shapes do not match its sizes");
    size_t packed = 0;  // of any machine with any number of threads, within reason
    if (!product({k + 4, columns + kStrip, 1024}, &packed)) return bad_step(step, "operands too large");
    if (!(multiplier > 0) || !std::isfinite(multiplier)) return bad_step(step, "damaged multiplier");
    if (c.dtype == DType::kF32) return lo <= hi ? Status() : bad_step(step, "clamp is not ordered");
    if (!is_quantized(c.dtype)) return bad_step(step, "output dtype is not one it can store");
    return clamp_inside(lo, hi, quant_of(c)) ? Status() : bad_step(step, "clamp outside the 8-bit range");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const TensorDef& c = site.tensor(step.out[0]);
    MatmulArgs args;
    args.batch = batch, args.rows = rows, args.k = k, args.columns = columns;
    args.a = site.bytes(step.in[0]);
    args.a_q = quant_of(site.tensor(step.in[0]));
    args.b = site.bytes(step.in[1]);
    args.c = site.bytes(step.out[0]);
    args.epilogue.kind = c.dtype == DType::kF32 ? OutKind::kFloat32 : OutKind::kQuantized;
    args.epilogue.lo = lo, args.epilogue.hi = hi;
    if (args.epilogue.kind == OutKind::kQuantized) args.epilogue.out = quant_of(c);
    const size_t padded = round_up(columns, kStrip);
    float* const multipliers = site.keep_floats(padded);
    std::fill(multipliers, multipliers + padded, multiplier);
    args.epilogue.multiplier = multipliers;
    args.path = site.path();
    return {matmul_path(rt, args),
            [&rt, args, scratch = site.scratch(matmul_scratch_bytes(rt, args))] { matmul(rt, args, *scratch); },
            matmul_choices(rt, args)};
  }
};

}  // namespace

StepType matmul_step() { return step_type<Matmul>(StepKind::kMatmul, "MATMUL"); }

}  // namespace ek
