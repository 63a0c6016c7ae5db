// Conv, its depthwise form, and Gemm of 16-bit activations by int8 weights: float32 that the step quantizes to 16 bits,
// exact integers, and the ending of a product on floats.
//
//   in x [addend] | blobs: packed weights, multiplier f32, bias f32 (a group's channels padded to kStrip)
#include <cmath>

#include "base/checked.h"
#include "conv/conv_wide.h"
#include "gemm/gemm_wide.h"
#include "program/steps/checks.h"
#include "program/steps/grouped_weights.h"
#include "program/steps/real_epilogue.h"

namespace ek {
namespace {

/// What all three have.
struct Product {
  Window window;
  size_t in_c = 0, out_c = 0, groups = 1;
  float scale = 1;
  int64_t zero_point = 0;
  bool is_signed = false;
  RealEpilogue epilogue;

  template <typename Arguments>
  void each_of_codes(Arguments& a) {
    a.real("scale", scale);
    a.integer("zero_point", zero_point);
    a.flag("signed", is_signed);
    epilogue.each(a);
  }

  size_t depth() const { return window.taps() * (in_c / groups); }
  uint64_t macs() const { return uint64_t{window.pixels()} * depth() * out_c; }
  PackedShape packed() const { return {out_c / groups, window.taps(), in_c / groups}; }
  WideParams codes() const { return {scale, static_cast<int32_t>(zero_point), is_signed}; }

  /// `weights` and `padded` are the sizes of the weights and of an array over channels.
  Status check_operands(const ProgramIndex& index, const Step& step, size_t weights, size_t padded) const {
    const bool addend = step.in.size() == 2;
    if (!has(step, addend ? 2 : 1, 3)) return bad_step(step, "wrong number of operands");
    const int64_t least = codes().least();
    if (!(scale > 0) || !std::isfinite(scale) || zero_point < least || zero_point > least + 65535) {
      return bad_step(step, "damaged quantization of its input");
    }
    const TensorDef &x = input(index, step), &y = output(index, step);
    if (x.dtype != DType::kF32 || (addend && input(index, step, 1).dtype != DType::kF32)) {
      return bad_step(step, "inputs must be float32");
    }
    const Window& w = window;
    if (!holds(x, {w.batch, w.in_h, w.in_w, in_c}) || !holds(y, {w.batch, w.out_h, w.out_w, out_c}) ||
        (addend && !holds(input(index, step, 1), {w.batch, w.out_h, w.out_w, out_c}))) {
      return bad_step(step, "tensor shapes do not match its sizes");
    }
    if (depth() > kMaxWideDepth) return bad_step(step, "sums can pass 2^31");
    if (!blob_is(index, step, 0, weights) || !blob_is(index, step, 1, padded * sizeof(float)) ||
        !blob_is(index, step, 2, padded * sizeof(float))) {
      return bad_step(step, "weights, multiplier or bias have the wrong size");
    }
    return epilogue.check(index, step);
  }

  Status check_packed(const ProgramIndex& index, const Step& step) const {
    size_t weights = 0;
    if (!GroupedWeights{packed(), groups}.bytes(&weights)) return bad_step(step, "weights too large");
    return check_operands(index, step, weights, packed().padded_n() * groups);
  }

  /// The zero point of the input folded into what is added to the products of each group.
  const double* starts(const Step& step, StepSite& site) const {
    const PackedShape shape = packed();
    double* const start = site.keep_doubles(shape.padded_n() * groups);
    for (size_t g = 0; g < groups; ++g) {
      const PackedView view = GroupedWeights{shape, groups}.group(*site.blob(step.blobs[0]), g);
      make_wide_start(*site.runtime().kernels, codes(), view.colsum(), shape.n, start + g * shape.padded_n());
    }
    return start;
  }

  Prepared prepare_rows(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    GemmWideArgs args;
    args.m = window.pixels();
    args.x = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    args.q = codes();
    args.b.shape = packed();
    args.start = starts(step, site);
    args.c = site.bytes(step.out[0]);
    args.epilogue = epilogue.prepared(step, site, out_c);
    args.path = site.path();
    return {gemm_wide_path(rt, args),
            [&rt, args, scratch = site.scratch(gemm_wide_scratch_bytes(rt, args)), weights = site.blob(step.blobs[0]),
             multiplier = site.blob(step.blobs[1]), bias = site.blob(step.blobs[2])]() mutable {
              args.b.data = *weights;
              args.epilogue.multiplier = reinterpret_cast<const float*>(*multiplier);
              args.epilogue.bias = reinterpret_cast<const float*>(*bias);
              gemm_wide(rt, args, *scratch);
            },
            gemm_wide_choices(rt, args)};
  }

  Prepared prepare_windows(const Step& step, StepSite& site, const double* start, bool depthwise) const {
    const Runtime& rt = site.runtime();
    ConvWideArgs args;
    args.depthwise = depthwise;
    args.conv.window = window;
    args.conv.in_c = in_c;
    args.conv.out_c = out_c;
    args.conv.groups = groups;
    args.conv.y = site.bytes(step.out[0]);
    args.conv.epilogue = epilogue.prepared(step, site, out_c);
    args.x = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    args.q = codes();
    args.start = start;
    args.conv.path = site.path();
    return {conv_wide_path(rt, args),
            [&rt, args, scratch = site.scratch(conv_wide_scratch_bytes(rt, args)), weights = site.blob(step.blobs[0]),
             multiplier = site.blob(step.blobs[1]), bias = site.blob(step.blobs[2])]() mutable {
              args.conv.weights = *weights;
              args.conv.epilogue.multiplier = reinterpret_cast<const float*>(*multiplier);
              args.conv.epilogue.bias = reinterpret_cast<const float*>(*bias);
              conv_wide(rt, args, *scratch);
            },
            conv_wide_choices(rt, args)};
  }
};

struct ConvWide : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    each_of_window(a, window);
    a.size("in_channels", in_c, 1);
    a.size("out_channels", out_c, 1);
    a.size("groups", groups, 1);
    each_of_codes(a);
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

  Prepared prepare(const Step& step, StepSite& site) const {
    return pointwise() ? prepare_rows(step, site) : prepare_windows(step, site, starts(step, site), false);
  }
};

struct DepthwiseWide : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    each_of_window(a, window);
    a.size("channels", out_c, 1);
    each_of_codes(a);
    in_c = groups = out_c;
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!window_fits(window)) return bad_step(step, "window does not fit the image");
    return check_operands(index, step, depthwise_packed_bytes(out_c, window.taps()), round_up(out_c, kStrip));
  }

  /// Results are finished as those of one group.
  Prepared prepare(const Step& step, StepSite& site) const {
    double* const start = site.keep_doubles(round_up(out_c, kStrip));
    const int32_t* const sums = depthwise_colsum(*site.blob(step.blobs[0]), out_c, window.taps());
    make_wide_start(*site.runtime().kernels, codes(), sums, out_c, start);
    return prepare_windows(step, site, start, true);
  }
};

struct GemmWide : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", window.in_h);
    a.size("k", in_c, 1);
    a.size("columns", out_c, 1);
    each_of_codes(a);
    window.in_w = window.out_w = 1;
    window.out_h = window.in_h;
  }
  Status check(const ProgramIndex& index, const Step& step) const { return check_packed(index, step); }
  Prepared prepare(const Step& step, StepSite& site) const { return prepare_rows(step, site); }
};

}  // namespace

StepType conv_wide_step() { return step_type<ConvWide>(StepKind::kConvWide, "CONV_WIDE"); }
StepType depthwise_wide_step() { return step_type<DepthwiseWide>(StepKind::kDepthwiseWide, "DEPTHWISE_WIDE"); }
StepType gemm_wide_step() { return step_type<GemmWide>(StepKind::kGemmWide, "GEMM_WIDE"); }

}  // namespace ek
