// Rows of float32, each quantized by its own largest value as it comes, or by what it spans, times int8 weights.
//
//   in x [addend] | blobs: packed weights, scale of each column f32, bias f32 (both padded to kStrip)
#include "base/checked.h"
#include "gemm/linear.h"
#include "program/steps/checks.h"
#include "program/steps/real_epilogue.h"

namespace ek {
namespace {

/// So deep a sum of products of 255 by 128 stays below 2^31.
constexpr size_t kDeepestSpans = ((size_t{1} << 31) - 1) / (255 * 128);

struct GemmDynamic {
  size_t rows = 0, k = 0, columns = 0;
  bool zero_points = false;  // of rows
  RealEpilogue epilogue;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", rows);
    a.size("k", k, 1);
    a.size("columns", columns, 1);
    a.flag("zero_points", zero_points);
    epilogue.each(a);
  }

  uint64_t macs() const { return uint64_t{rows} * k * columns; }
  PackedShape packed() const { return {columns, 1, k}; }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, step.in.size() == 2 ? 2 : 1, 3)) return bad_step(step, "wrong number of operands");
    if (k > (zero_points ? kDeepestSpans : kMaxRowDepth)) return bad_step(step, "sums can pass 2^31");
    EK_RETURN_IF_ERROR(check_real_rows(index, step, rows, k, columns));
    size_t weights = 0;
    const size_t padded = packed().padded_n() * sizeof(float);
    if (!packed().bytes(&weights) || !blob_is(index, step, 0, weights) || !blob_is(index, step, 1, padded) ||
        !blob_is(index, step, 2, padded)) {
      return bad_step(step, "weights, scales or bias have the wrong size");
    }
    return epilogue.check(index, step);
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    LinearArgs args;
    args.x = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    args.ldx = k;
    args.zero_points = zero_points;
    GemmArgs& gemm = args.gemm;
    gemm.m = rows;
    gemm.b = {packed(), *site.blob(step.blobs[0])};
    int32_t* const init = site.keep(packed().padded_n());
    make_symmetric_init(*rt.kernels, gemm.b, init);
    gemm.init = init;
    gemm.c = site.bytes(step.out[0]);
    gemm.epilogue = epilogue.prepared(step, site, columns);
    gemm.ldc = out_bytes(gemm.epilogue, columns);
    gemm.path = site.path();
    return {linear_path(rt, args),
            [&rt, args, scratch = site.scratch(linear_scratch_bytes(rt, args)), weights = site.blob(step.blobs[0]),
             scale = site.blob(step.blobs[1]), bias = site.blob(step.blobs[2])]() mutable {
              args.gemm.b.data = *weights;
              args.gemm.epilogue.multiplier = reinterpret_cast<const float*>(*scale);
              args.gemm.epilogue.bias = reinterpret_cast<const float*>(*bias);
              linear(rt, args, *scratch);
            },
            linear_choices(rt, args)};
  }
};

}  // namespace

StepType gemm_dynamic_step() { return step_type<GemmDynamic>(StepKind::kGemmDynamic, "GEMM_DYNAMIC"); }

}  // namespace ek
