// Resizing along one axis: each result a weighted sum of a few neighbors, in float32. 8 bits are dequantized where they
// are read, and a result of 8 bits is quantized where it is stored.
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
    const bool codes = is_quantized(x.dtype) || is_quantized(y.dtype);
    if (codes && !resamples_codes(inner, taps)) return bad_step(step, "too short or too many neighbors for 8 bits");
    const bool fits = takes(x.dtype) && takes(y.dtype) && holds(x, {outer, n, inner}) && holds(y, {outer, m, inner}) &&
                      product({n, inner}, &slice) && slice < static_cast<size_t>(kMaxSize) &&
                      product({m, inner, taps}, &result);
    if (!fits) return bad_step(step, "tensors do not match its sizes");
    const bool tables =
        product({m, taps, sizeof(float)}, &bytes) && blob_is(index, step, 0, bytes) && blob_is(index, step, 1, bytes);
    return tables ? Status() : bad_step(step, "tables do not match its sizes");
  }

  static bool takes(DType dtype) { return dtype == DType::kF32 || is_quantized(dtype); }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const TensorDef &x = site.tensor(step.in[0]), &y = site.tensor(step.out[0]);
    ResampleArgs args;
    args.outer = outer, args.n = n, args.m = m, args.inner = inner, args.taps = taps;
    args.x = site.bytes(step.in[0]);
    args.y = site.bytes(step.out[0]);
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
    const QuantParams x_q = quant_of(x), y_q = quant_of(y);
    const bool x_codes = is_quantized(x.dtype), y_codes = is_quantized(y.dtype);
    return {resamples_lanes(inner) ? "resample_lanes" : "resample_row", [&rt, args, x_q, y_q, x_codes, y_codes] {
              ResampleArgs run = args;
              run.x_codes = x_codes ? &x_q : nullptr;
              run.y_codes = y_codes ? &y_q : nullptr;
              resample(rt, run);
            }};
  }
};

}  // namespace

StepType resample_step() { return step_type<Resample>(StepKind::kResample, "RESAMPLE"); }

}  // namespace ek
