// Conv, its depthwise form, and Gemm: integer products with everything up to the stored result in their epilogue.
//
//   in x [residual] | blobs: packed weights, bias int32, multiplier f32 (a group's channels padded to kStrip)
//
// The residual is read where the result is stored, element by element, so that the result may be written over it.
// With a residual, mid_* is the quantization of the product's own result and out's that of the sum; without one they
// are as their struct has them.
#include <algorithm>
#include <cmath>

#include "base/checked.h"
#include "conv/source.h"
#include "gemm/gemm.h"
#include "gemm/pack.h"
#include "program/steps/checks.h"
#include "program/steps/grouped_weights.h"

namespace ek {
namespace {

/// The arguments of an epilogue: clamps around the zero point (8-bit results) or of the value (float32).
struct EpilogueArguments {
  float lo = 0, hi = 0, mid_scale = 1, sum_lo = 0, sum_hi = 0;
  int64_t mid_zero_point = 0;
  bool mid_signed = false;

  template <typename Arguments>
  void each(Arguments& a) {
    a.real("lo", lo);
    a.real("hi", hi);
    a.real("mid_scale", mid_scale);
    a.integer("mid_zero_point", mid_zero_point);
    a.flag("mid_signed", mid_signed);
    a.real("sum_lo", sum_lo);
    a.real("sum_hi", sum_hi);
  }

  QuantParams mid() const {
    return {mid_scale, static_cast<int32_t>(mid_zero_point), mid_signed ? Sign::kS8 : Sign::kU8};
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    const TensorDef& y = output(index, step);
    const bool residual = step.in.size() == 2;
    if (!is_quantized(y.dtype)) {
      if (y.dtype != DType::kF32 && y.dtype != DType::kI32)
        return bad_step(step, "output dtype is not one it can store");
      if (residual || !(lo <= hi)) return bad_step(step, "a float result takes no residual and an ordered clamp");
    } else if (residual) {
      if (!zero_point_inside(mid_zero_point, mid().sign) || !(mid_scale > 0) || !std::isfinite(mid_scale) ||
          !clamp_inside(sum_lo, sum_hi, quant_of(y))) {
        return bad_step(step, "damaged quantization of the residual sum");
      }
      if (!clamp_inside(lo, hi, mid())) return bad_step(step, "clamp outside the 8-bit range");
    } else if (!clamp_inside(lo, hi, quant_of(y))) {
      return bad_step(step, "clamp outside the 8-bit range");
    }
    const EpilogueArguments none;
    const bool unused = mid_scale == none.mid_scale && mid_zero_point == 0 && !mid_signed && sum_lo == 0 && sum_hi == 0;
    return residual || unused ? Status() : bad_step(step, "quantization of a residual sum without a residual");
  }

  Epilogue prepared(const Step& step, StepSite& site, size_t out_c) const {
    const TensorDef& y = site.tensor(step.out[0]);
    Epilogue e;
    e.lo = lo;
    e.hi = hi;
    e.kind = is_quantized(y.dtype) ? OutKind::kQuantized : y.dtype == DType::kF32 ? OutKind::kFloat32 : OutKind::kInt32;
    if (e.kind == OutKind::kQuantized) e.out = quant_of(y);
    if (step.in.size() < 2) return e;
    e.sum_q = e.out;
    e.out = mid();
    e.sum_lo = sum_lo;
    e.sum_hi = sum_hi;
    e.residual = site.bytes(step.in[1]);
    e.residual_q = quant_of(site.tensor(step.in[1]));
    e.residual_ld = out_c;
    return e;
  }
};

/// What a product reads of its blobs in each run.
struct Constants {
  Constants(const Step& step, StepSite& site)
      : weights_at(site.blob(step.blobs[0])), multiplier_at(site.blob(step.blobs[2])) {}

  const uint8_t* weights() const { return *weights_at; }
  const float* multiplier() const { return reinterpret_cast<const float*>(*multiplier_at); }

  const uint8_t *const *weights_at, *const *multiplier_at;
};

/// What all three have.
struct Product {
  Window window;
  size_t in_c = 0, out_c = 0, groups = 1;
  EpilogueArguments epilogue;

  size_t pixels() const { return window.batch * window.out_h * window.out_w; }
  uint64_t macs() const { return uint64_t{pixels()} * window.taps() * (in_c / groups) * out_c; }
  PackedShape packed() const { return {out_c / groups, window.taps(), in_c / groups}; }

  /// Tensors, blobs and epilogue; `weights` and `padded` are the sizes of the weights and of an array over channels.
  Status check_operands(const ProgramIndex& index, const Step& step, size_t weights, size_t padded) const {
    if (!has(step, step.in.size() == 2 ? 2 : 1, 3)) return bad_step(step, "wrong number of operands");
    const bool residual = step.in.size() == 2;
    const TensorDef &x = input(index, step), &y = output(index, step);
    if (!is_quantized(x.dtype) || (residual && !is_quantized(input(index, step, 1).dtype))) {
      return bad_step(step, "inputs must be 8-bit");
    }
    const Window& w = window;
    if (!holds(x, {w.batch, w.in_h, w.in_w, in_c}) || !holds(y, {w.batch, w.out_h, w.out_w, out_c}) ||
        (residual && !holds(input(index, step, 1), {w.batch, w.out_h, w.out_w, out_c}))) {
      return bad_step(step, "tensor shapes do not match its sizes");
    }
    if (!blob_is(index, step, 0, weights) || !blob_is(index, step, 1, padded * sizeof(int32_t)) ||
        !blob_is(index, step, 2, padded * sizeof(float))) {
      return bad_step(step, "weights, bias or multiplier have the wrong size");
    }
    return epilogue.check(index, step);
  }

  Status check_packed(const ProgramIndex& index, const Step& step) const {
    size_t weights = 0;
    if (!GroupedWeights{packed(), groups}.bytes(&weights)) return bad_step(step, "weights too large");
    return check_operands(index, step, weights, packed().padded_n() * groups);
  }

  /// Bias, zero point and sign of the input folded into the accumulators' starting values, group by group.
  const int32_t* starts(const Step& step, StepSite& site) const {
    const QuantParams x = quant_of(site.tensor(step.in[0]));
    const PackedShape shape = packed();
    const auto* const bias = reinterpret_cast<const int32_t*>(*site.blob(step.blobs[1]));
    int32_t* const init = site.keep(shape.padded_n() * groups);
    for (size_t g = 0; g < groups; ++g) {
      const PackedView view = GroupedWeights{shape, groups}.group(*site.blob(step.blobs[0]), g);
      const size_t at = g * shape.padded_n();
      make_init(*site.runtime().kernels, x.sign, x.zero_point, view.colsum(), bias + at, shape.n, init + at);
    }
    return init;
  }

  ConvArgs arguments(const Step& step, StepSite& site) const {
    ConvArgs args;
    args.window = window;
    args.in_c = in_c;
    args.out_c = out_c;
    args.groups = groups;
    args.x = site.bytes(step.in[0]);
    args.x_q = quant_of(site.tensor(step.in[0]));
    args.y = site.bytes(step.out[0]);
    args.epilogue = epilogue.prepared(step, site, out_c);
    args.path = site.path();
    return args;
  }

  /// A product over rows: a Gemm, and a 1 x 1 convolution over the pixels of an image.
  Prepared prepare_rows(const Step& step, StepSite& site) const {
    const ConvArgs conv = arguments(step, site);
    GemmArgs args;
    args.m = pixels();
    args.a = conv.x;
    args.lda = in_c;
    args.a_sign = conv.x_q.sign;
    args.b.shape = {out_c, 1, in_c};
    args.init = starts(step, site);
    args.c = conv.y;
    args.ldc = out_bytes(conv.epilogue, out_c);
    args.epilogue = conv.epilogue;
    args.path = conv.path;
    const Runtime& rt = site.runtime();
    return {gemm_path(rt, args),
            [&rt, args, constants = Constants(step, site)]() mutable {
              args.b.data = constants.weights();
              args.epilogue.multiplier = constants.multiplier();
              gemm(rt, args);
            },
            gemm_choices(rt, args)};
  }
};

struct ConvStep : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    each_of_window(a, window);
    a.size("in_channels", in_c, 1);
    a.size("out_channels", out_c, 1);
    a.size("groups", groups, 1);
    epilogue.each(a);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!window_fits(window)) return bad_step(step, "window does not fit the image");
    if (in_c % groups != 0 || out_c % groups != 0) return bad_step(step, "channels do not divide into groups");
    return check_packed(index, step);
  }

  bool pointwise() const {
    const Window& w = window;
    return w.taps() == 1 && w.stride_h == 1 && w.stride_w == 1 && w.pad_top == 0 && w.pad_left == 0 &&
           w.in_h == w.out_h && w.in_w == w.out_w && groups == 1;
  }

  bool replaces(const ProgramIndex&, const Step&, size_t i) const { return i == 1; }

  Prepared prepare(const Step& step, StepSite& site) const {
    if (pointwise()) return prepare_rows(step, site);
    const Runtime& rt = site.runtime();
    ConvArgs args = arguments(step, site);
    args.init = starts(step, site);
    const size_t runs = conv_runs_bytes(rt, args);
    if (runs > 0) {
      auto* const own = reinterpret_cast<uint8_t*>(site.keep((runs + kLine) / sizeof(int32_t)));
      uint8_t* const aligned = own + (kLine - reinterpret_cast<uintptr_t>(own) % kLine) % kLine;
      args.weights = *site.blob(step.blobs[0]);
      pack_conv_runs(rt, args, aligned);
      args.in_runs = aligned;
    }
    uint8_t* const* const scratch = site.scratch(conv_scratch_bytes(rt, args));
    return {conv_path(rt, args),
            [&rt, args, scratch, constants = Constants(step, site)]() mutable {
              args.weights = constants.weights();
              args.epilogue.multiplier = constants.multiplier();
              conv(rt, args, *scratch);
            },
            conv_choices(rt, args)};
  }
};

struct DepthwiseStep : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    each_of_window(a, window);
    a.size("channels", out_c, 1);
    epilogue.each(a);
    in_c = groups = out_c;
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!window_fits(window)) return bad_step(step, "window does not fit the image");
    return check_operands(index, step, depthwise_packed_bytes(out_c, window.taps()), round_up(out_c, kStrip));
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    ConvArgs args = arguments(step, site);
    int32_t* const init = site.keep(round_up(out_c, kStrip));
    make_init(*rt.kernels, args.x_q.sign, args.x_q.zero_point,
              depthwise_colsum(*site.blob(step.blobs[0]), out_c, window.taps()),
              reinterpret_cast<const int32_t*>(*site.blob(step.blobs[1])), out_c, init);
    args.init = init;
    uint8_t* const* const scratch = site.scratch(depthwise_scratch_bytes(rt, args));
    return {"depthwise", [&rt, args, scratch, constants = Constants(step, site)]() mutable {
              args.weights = constants.weights();
              args.epilogue.multiplier = constants.multiplier();
              depthwise_conv(rt, args, *scratch);
            }};
  }
};

struct GemmStep : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", window.in_h);
    a.size("k", in_c);
    a.size("columns", out_c);
    epilogue.each(a);
    window.in_w = window.out_w = 1;
    window.out_h = window.in_h;
  }
  Status check(const ProgramIndex& index, const Step& step) const { return check_packed(index, step); }
  bool replaces(const ProgramIndex&, const Step&, size_t i) const { return i == 1; }
  Prepared prepare(const Step& step, StepSite& site) const { return prepare_rows(step, site); }
};

}  // namespace

StepType conv_step() { return step_type<ConvStep>(StepKind::kConv, "CONV"); }
StepType depthwise_step() { return step_type<DepthwiseStep>(StepKind::kDepthwise, "DEPTHWISE"); }
StepType gemm_step() { return step_type<GemmStep>(StepKind::kGemm, "GEMM"); }

}  // namespace ek
