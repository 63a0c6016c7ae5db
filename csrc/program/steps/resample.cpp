// Resizing along one axis, float32: each result a weighted sum of a few neighbors.
#include "conv/resample.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

struct Resample : NoMacs {
  size_t outer = 0, n = 0, m = 0, inner = 0, taps = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("outer", outer, 1);
    a.size("n", n, 1);
    a.size("m", m, 1);
    a.size("inner", inner, 1);
    a.size("taps", taps, 1);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 1, 2)) return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    size_t slice = 0, result = 0, bytes = 0;
    const bool fits = x.dtype == DType::kF32 && y.dtype == DType::kF32 && holds(x, {outer, n, inner}) &&
                      holds(y, {outer, m, inner}) && product({n, inner}, &slice) &&
                      slice < static_cast<size_t>(kMaxSize) && product({m, inner, taps}, &result);
    if (!fits) return bad_step(step, "tensors do not match its sizes");
    const bool tables =
        product({m, taps, sizeof(float)}, &bytes) && blob_is(index, step, 0, bytes) && blob_is(index, step, 1, bytes);
    return tables ? Status() : bad_step(step, "tables do not match its sizes");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    ResampleArgs args;
    args.outer = outer, args.n = n, args.m = m, args.inner = inner, args.taps = taps;
    args.x = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    args.y = reinterpret_cast<float*>(site.bytes(step.out[0]));
    // Tables are kept: nobody has said that what a file holds stays inside of x.
    int32_t* const index = site.keep(m * taps);
    float* const weight = site.keep_floats(m * taps);
    std::memcpy(index, *site.blob(step.blobs[0]), m * taps * sizeof(int32_t));
    std::memcpy(weight, *site.blob(step.blobs[1]), m * taps * sizeof(float));
    for (size_t i = 0; i < m * taps; ++i) index[i] = std::clamp(index[i], 0, static_cast<int32_t>(n - 1));
    args.index = index, args.weight = weight;
    if (resamples_lanes(inner)) {
      int32_t* const places = site.keep(m * taps * inner);
      float* const weights = site.keep_floats(m * taps * inner);
      resample_places(args, places, weights);
      args.index = places, args.weight = weights;
    }
    return {resamples_lanes(inner) ? "resample_lanes" : "resample_row", [&rt, args] { resample(rt, args); }};
  }
};

}  // namespace

StepType resample_step() { return step_type<Resample>(StepKind::kResample, "RESAMPLE"); }

}  // namespace ek
