// Conv, its depthwise and its transposed form, and Gemm on float32, with everything up to the stored result in their
// epilogue.
//
//   in x [addend] | blobs: packed weights, bias f32 (a group's channels padded to kStrip)
#include "base/checked.h"
#include "conv/conv_f32.h"
#include "gemm/gemm_f32.h"
#include "program/steps/checks.h"
#include "program/steps/real_epilogue.h"

namespace ek {
namespace {

/// What all of them have.
struct Product {
  F32ConvArgs args;
  RealEpilogue epilogue;

  template <typename Arguments>
  void each_of_channels(Arguments& a) {
    a.size("in_channels", args.in_c, 1);
    a.size("out_channels", args.out_c, 1);
    a.size("groups", args.groups, 1);
    epilogue.each(a);
  }

  uint64_t macs() const {
    const Window3& w = args.window;
    const uint64_t pixels = args.transposed ? w.in_pixels() : w.out_pixels();
    return pixels * w.taps() * (args.in_c / args.groups) * args.out_c;
  }

  /// `weights` and `padded` are the floats of the weights and of the bias.
  Status check_operands(const ProgramIndex& index, const Step& step, size_t weights, size_t padded) const {
    const bool addend = step.in.size() == 2;
    if (!has(step, addend ? 2 : 1, 2)) return bad_step(step, "wrong number of operands");
    const Window3& w = args.window;
    const auto fits = [&](const TensorDef& t, const std::array<size_t, 3>& sides, size_t channels) {
      return holds(t, {w.batch, sides[0], sides[1], sides[2], channels});
    };
    const TensorDef &x = input(index, step), &y = output(index, step);
    if (x.dtype != DType::kF32 || (addend && input(index, step, 1).dtype != DType::kF32)) {
      return bad_step(step, "inputs must be float32");
    }
    if (!fits(x, w.in, args.in_c) || !fits(y, w.out, args.out_c) ||
        (addend && !fits(input(index, step, 1), w.out, args.out_c))) {
      return bad_step(step, "tensor shapes do not match its sizes");
    }
    size_t bytes = 0;
    if (!checked_mul(weights, sizeof(float), &bytes) || !blob_is(index, step, 0, bytes) ||
        !blob_is(index, step, 1, padded * sizeof(float))) {
      return bad_step(step, "weights or bias have the wrong size");
    }
    return epilogue.check(index, step);
  }

  Status check_packed(const ProgramIndex& index, const Step& step) const {
    if (args.in_c % args.groups != 0 || args.out_c % args.groups != 0)
      return bad_step(step, "channels do not divide into groups");
    size_t group = 0, weights = 0;
    if (!f32_group_floats(args, &group) || !checked_mul(round_up(group, kStrip), args.groups, &weights))
      return bad_step(step, "weights too large");
    return check_operands(index, step, weights, round_up(args.out_c / args.groups, kStrip) * args.groups);
  }

  /// The addend is read where the result is stored, once: the depth of the product is finished then.
  bool replaces_addend(const ProgramIndex& index, const Step& step, size_t i) const {
    return i == 1 && output(index, step).dtype == DType::kF32 &&
           args.window.taps() * (args.in_c / args.groups) <= kMostAtOnceDepth;
  }

  F32ConvArgs prepared(const Step& step, StepSite& site) const {
    F32ConvArgs a = args;
    a.x = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    a.y = site.bytes(step.out[0]);
    a.epilogue = epilogue.prepared(step, site, args.out_c);
    return a;
  }

  template <typename Run>
  static Prepared with_blobs(const char* path, const Step& step, StepSite& site, const F32ConvArgs& a, size_t bytes,
                             Run run) {
    return {path, [&rt = site.runtime(), a = a, run, scratch = site.scratch(bytes), weights = site.blob(step.blobs[0]),
                   bias = site.blob(step.blobs[1])]() mutable {
              a.weights = reinterpret_cast<const float*>(*weights);
              a.epilogue.bias = reinterpret_cast<const float*>(*bias);
              run(rt, a, *scratch);
            }};
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const F32ConvArgs a = prepared(step, site);
    return with_blobs("float", step, site, a, conv_f32_scratch_bytes(site.runtime(), a), conv_f32);
  }
};

struct ConvF32 : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    each_of_window(a, args.window);
    each_of_channels(a);
  }
  Status check(const ProgramIndex& index, const Step& step) const {
    if (!window_fits(args.window)) return bad_step(step, "window does not fit the image");
    return check_packed(index, step);
  }
  bool replaces(const ProgramIndex& index, const Step& step, size_t i) const { return replaces_addend(index, step, i); }
};

struct ConvTransposeF32 : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    args.transposed = true;
    each_of_window(a, args.window);
    each_of_channels(a);
  }
  Status check(const ProgramIndex& index, const Step& step) const {
    // Forwards, this window leads from the result to the input.
    Window3 back = args.window;
    std::swap(back.in, back.out);
    if (!window_fits(back)) return bad_step(step, "window does not fit the image");
    return check_packed(index, step);
  }
};

struct DepthwiseF32 : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    each_of_window(a, args.window);
    a.size("channels", args.out_c, 1);
    epilogue.each(a);
    args.in_c = args.groups = args.out_c;
  }
  Status check(const ProgramIndex& index, const Step& step) const {
    if (!window_fits(args.window)) return bad_step(step, "window does not fit the image");
    const size_t padded = round_up(args.out_c, kStrip);
    return check_operands(index, step, args.window.taps() * padded, padded);  // at most 2^20 taps of 2^31 channels
  }
  Prepared prepare(const Step& step, StepSite& site) const {
    const F32ConvArgs a = prepared(step, site);
    return with_blobs("depthwise", step, site, a, depthwise_f32_scratch_bytes(site.runtime(), a), depthwise_f32);
  }
};

/// A convolution over rows that are pixels.
struct GemmF32 : Product {
  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", args.window.in[2]);
    a.size("k", args.in_c);
    a.size("columns", args.out_c);
    epilogue.each(a);
    args.window.out = args.window.in;
  }
  Status check(const ProgramIndex& index, const Step& step) const { return check_packed(index, step); }
  bool replaces(const ProgramIndex& index, const Step& step, size_t i) const { return replaces_addend(index, step, i); }
};

}  // namespace

StepType conv_f32_step() { return step_type<ConvF32>(StepKind::kConvF32, "CONV_F32"); }
StepType depthwise_f32_step() { return step_type<DepthwiseF32>(StepKind::kDepthwiseF32, "DEPTHWISE_F32"); }
StepType gemm_f32_step() { return step_type<GemmF32>(StepKind::kGemmF32, "GEMM_F32"); }
StepType conv_transpose_f32_step() {
  return step_type<ConvTransposeF32>(StepKind::kConvTransposeF32, "CONV_TRANSPOSE_F32");
}

}  // namespace ek
