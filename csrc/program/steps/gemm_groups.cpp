// Rows of float32, quantized run by run as they come, times 4-bit weights with a scale, and maybe a zero point, a
// group.
//
//   in x [addend] | blobs: packed 4-bit weights with their float16 scales (gemm/pack4.h), bias f32 (padded to kStrip)
#include <cmath>

#include "base/checked.h"
#include "gemm/gemm4.h"
#include "program/steps/checks.h"
#include "program/steps/real_epilogue.h"

namespace ek {
namespace {

struct GemmGroups {
  size_t rows = 0, k = 0, columns = 0, group = 0;
  bool zero_points = false;    // of groups
  size_t activation_bits = 8;  // of the rows that are quantized
  float unit = 0;              // of scales
  RealEpilogue epilogue;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", rows);
    a.size("k", k, 1);
    a.size("columns", columns, 1);
    a.size("group", group);
    a.flag("zero_points", zero_points);
    a.size("activation_bits", activation_bits);
    a.real("unit", unit);
    epilogue.each(a);
  }

  uint64_t macs() const { return uint64_t{rows} * k * columns; }
  PackedShape4 packed() const { return {columns, k, group, zero_points}; }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, step.in.size() == 2 ? 2 : 1, 2)) return bad_step(step, "wrong number of operands");
    if (group != 32 && group != 64 && group != 128) return bad_step(step, "groups are 32, 64 or 128 values");
    if (activation_bits != 8 && activation_bits != 16) return bad_step(step, "rows have 8 or 16 bits");
    if (!std::isnormal(unit) || unit < 0) return bad_step(step, "damaged unit of scales");
    EK_RETURN_IF_ERROR(check_real_rows(index, step, rows, k, columns));
    size_t weights = 0, scratch = 0;
    if (!packed().bytes(&weights) || !gemm4_scratch_bytes(product(), &scratch)) return bad_step(step, "too large");
    if (!blob_is(index, step, 0, weights) || !blob_is(index, step, 1, round_up(columns, kStrip) * sizeof(float))) {
      return bad_step(step, "weights or bias have the wrong size");
    }
    return epilogue.check(index, step);
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    Gemm4Args args = product();
    args.x = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    args.c = site.bytes(step.out[0]);
    args.epilogue = epilogue.prepared(step, site, columns);
    args.ldc = out_bytes(args.epilogue, columns);
    size_t scratch_bytes = 0;
    const bool fits = gemm4_scratch_bytes(args, &scratch_bytes);
    EK_ASSERT(fits);
    static_cast<void>(fits);
    return {"int4", [&rt, args, scratch = site.scratch(scratch_bytes), weights = site.blob(step.blobs[0]),
                     bias = site.blob(step.blobs[1])]() mutable {
              args.b.data = *weights;
              args.epilogue.bias = reinterpret_cast<const float*>(*bias);
              gemm4(rt, args, *scratch);
            }};
  }

 private:
  Gemm4Args product() const {
    Gemm4Args args;
    args.m = rows;
    args.ldx = k;
    args.b = {packed(), nullptr, unit};
    args.wide = activation_bits == 16;
    return args;
  }
};

}  // namespace

StepType gemm_groups_step() { return step_type<GemmGroups>(StepKind::kGemmGroups, "GEMM_GROUPS"); }

}  // namespace ek
