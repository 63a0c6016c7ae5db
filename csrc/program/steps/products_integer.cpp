// Products of integers whose zero point is only known at run time, as ONNX's MatMulInteger and ConvInteger have it.
//
//   GEMM_INTEGER  in x zero_point                 | blobs: packed weights            | int32 sums, mod 2^32
//   CONV_INTEGER  in x zero_point                 | blobs: packed weights            | the same; depthwise where every
//                                                                                      channel is a group of its own
//   GEMM_SCALED   in x zero_point scale [addend]  | blobs: packed weights, bias f32 (padded to kStrip)
//
// The zero point is one item of x's type. GEMM_SCALED has one scale, or one a column, and gives what RealEpilogue says
// of float(sum) * scale.
#include <algorithm>

#include "base/checked.h"
#include "gemm/gemm.h"
#include "gemm/pack.h"
#include "program/steps/checks.h"
#include "program/steps/grouped_weights.h"
#include "program/steps/real_epilogue.h"

namespace ek {
namespace {

/// One item of a tensor of 8 bits, read at each run.
class ZeroPoint {
 public:
  ZeroPoint(StepSite& site, uint32_t id) : at_(site.bytes(id)), signed_(site.tensor(id).dtype == DType::kS8) {}

  int32_t operator()() const { return signed_ ? static_cast<int8_t>(*at_) : *at_; }

 private:
  const uint8_t* at_;
  bool signed_;
};

Status check_codes(const ProgramIndex& index, const Step& step) {
  const TensorDef &x = input(index, step), &zero = input(index, step, 1);
  if (!is_quantized(x.dtype) || zero.dtype != x.dtype) return bad_step(step, "x and its zero point must be 8-bit");
  return elements_of(zero) == 1 ? Status() : bad_step(step, "needs one zero point");
}

/// Rows of codes times packed weights, whatever becomes of the sums.
struct Rows {
  size_t rows = 0, k = 0, columns = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", rows);
    a.size("k", k, 1);
    a.size("columns", columns, 1);
  }

  uint64_t macs() const { return uint64_t{rows} * k * columns; }
  PackedShape packed() const { return {columns, 1, k}; }

  Status check(const ProgramIndex& index, const Step& step) const {
    EK_RETURN_IF_ERROR(check_codes(index, step));
    if (!holds(input(index, step), {rows, k}) || !holds(output(index, step), {rows, columns})) {
      return bad_step(step, "tensor shapes do not match its sizes");
    }
    size_t weights = 0;
    const bool fits = packed().bytes(&weights) && blob_is(index, step, 0, weights);
    return fits ? Status() : bad_step(step, "weights have the wrong size");
  }

  /// All but the weights, the starting values and the epilogue.
  GemmArgs arguments(const Step& step, StepSite& site, int32_t* init) const {
    GemmArgs args;
    args.m = rows;
    args.a = site.bytes(step.in[0]);
    args.lda = k;
    args.a_sign = quant_of(site.tensor(step.in[0])).sign;
    args.b.shape = packed();
    args.init = init;
    args.c = site.bytes(step.out[0]);
    args.path = site.path();
    return args;
  }
};

struct GemmInteger : Rows {
  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 2, 1)) return bad_step(step, "wrong number of operands");
    if (output(index, step).dtype != DType::kI32) return bad_step(step, "its sums are int32");
    return Rows::check(index, step);
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    int32_t* const init = site.keep(packed().padded_n());
    GemmArgs args = arguments(step, site, init);
    args.epilogue.kind = OutKind::kInt32;
    args.ldc = out_bytes(args.epilogue, columns);
    return {gemm_path(rt, args),
            [&rt, args, init, zero = ZeroPoint(site, step.in[1]), weights = site.blob(step.blobs[0])]() mutable {
              args.b.data = *weights;
              make_init(*rt.kernels, args.a_sign, zero(), args.b.colsum(), nullptr, args.b.shape.n, init);
              gemm(rt, args);
            },
            gemm_choices(rt, args)};
  }
};

struct GemmScaled : Rows {
  static constexpr size_t kOperands = 3;  // without an addend
  RealEpilogue epilogue;

  template <typename Arguments>
  void each(Arguments& a) {
    Rows::each(a);
    epilogue.each(a);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    const bool addend = step.in.size() == kOperands + 1;
    if (!has(step, addend ? kOperands + 1 : kOperands, 2)) return bad_step(step, "wrong number of operands");
    if (k > kMaxDepth) return bad_step(step, "sums can pass 2^31");
    const TensorDef& scale = input(index, step, 2);
    if (scale.dtype != DType::kF32 || (elements_of(scale) != 1 && elements_of(scale) != columns)) {
      return bad_step(step, "needs one float32 scale, or one a column");
    }
    if (addend) {
      const TensorDef& added = input(index, step, kOperands);
      if (added.dtype != DType::kF32 || !holds(added, {rows, columns})) return bad_step(step, "damaged addend");
    }
    if (!blob_is(index, step, 1, packed().padded_n() * sizeof(float))) {
      return bad_step(step, "its bias has the wrong size");
    }
    EK_RETURN_IF_ERROR(Rows::check(index, step));
    return epilogue.check(index, step, kOperands);
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const size_t padded = packed().padded_n(), scales = elements_of(site.tensor(step.in[2]));
    int32_t* const init = site.keep(padded);
    float* const multiplier = site.keep_floats(padded);
    GemmArgs args = arguments(step, site, init);
    args.epilogue = epilogue.prepared(step, site, columns, kOperands);
    args.epilogue.multiplier = multiplier;
    args.ldc = out_bytes(args.epilogue, columns);
    return {gemm_path(rt, args),
            [&rt, args, init, multiplier, scales, zero = ZeroPoint(site, step.in[1]),
             scale = reinterpret_cast<const float*>(site.bytes(step.in[2])), weights = site.blob(step.blobs[0]),
             bias = site.blob(step.blobs[1])]() mutable {
              args.b.data = *weights;
              args.epilogue.bias = reinterpret_cast<const float*>(*bias);
              make_init(*rt.kernels, args.a_sign, zero(), args.b.colsum(), nullptr, args.b.shape.n, init);
              for (size_t n = 0; n < args.b.shape.n; ++n) multiplier[n] = scale[scales == 1 ? 0 : n];
              gemm(rt, args);
            },
            gemm_choices(rt, args)};
  }
};

struct ConvInteger {
  Window window;
  size_t in_c = 0, out_c = 0, groups = 1;

  template <typename Arguments>
  void each(Arguments& a) {
    each_of_window(a, window);
    a.size("in_channels", in_c, 1);
    a.size("out_channels", out_c, 1);
    a.size("groups", groups, 1);
  }

  uint64_t macs() const { return uint64_t{window.pixels()} * window.taps() * (in_c / groups) * out_c; }
  bool depthwise() const { return groups > 1 && groups == in_c && groups == out_c; }
  PackedShape packed() const { return {out_c / groups, window.taps(), in_c / groups}; }
  /// Of the starting values of all groups.
  size_t padded() const { return depthwise() ? round_up(out_c, kStrip) : packed().padded_n() * groups; }

  bool weights_bytes(size_t* bytes) const {
    if (depthwise()) return *bytes = depthwise_packed_bytes(out_c, window.taps()), true;
    return GroupedWeights{packed(), groups}.bytes(bytes);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 2, 1)) return bad_step(step, "wrong number of operands");
    if (!window_fits(window)) return bad_step(step, "window does not fit the image");
    if (in_c % groups != 0 || out_c % groups != 0) return bad_step(step, "channels do not divide into groups");
    EK_RETURN_IF_ERROR(check_codes(index, step));
    const Window& w = window;
    const TensorDef& y = output(index, step);
    if (y.dtype != DType::kI32) return bad_step(step, "its sums are int32");
    if (!holds(input(index, step), {w.batch, w.in_h, w.in_w, in_c}) || !holds(y, {w.batch, w.out_h, w.out_w, out_c})) {
      return bad_step(step, "tensor shapes do not match its sizes");
    }
    size_t weights = 0;
    const bool fits = weights_bytes(&weights) && blob_is(index, step, 0, weights);
    return fits ? Status() : bad_step(step, "weights have the wrong size");
  }

  /// The starting values of all groups for a zero point.
  void start(const Kernels& kernels, const ConvArgs& args, int32_t* init) const {
    const auto make = [&](const int32_t* colsum, size_t n, int32_t* to) {
      make_init(kernels, args.x_q.sign, args.x_q.zero_point, colsum, nullptr, n, to);
    };
    if (depthwise()) return make(depthwise_colsum(args.weights, out_c, window.taps()), out_c, init);
    for (size_t g = 0; g < groups; ++g) {
      const PackedView view = GroupedWeights{packed(), groups}.group(args.weights, g);
      make(view.colsum(), view.shape.n, init + g * view.shape.padded_n());
    }
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    int32_t* const init = site.keep(padded());
    ConvArgs args;
    args.window = window;
    args.in_c = in_c;
    args.out_c = out_c;
    args.groups = groups;
    args.x = site.bytes(step.in[0]);
    args.x_q.sign = quant_of(site.tensor(step.in[0])).sign;
    args.init = init;
    args.y = site.bytes(step.out[0]);
    args.epilogue.kind = OutKind::kInt32;
    args.path = site.path();
    const size_t scratch = depthwise() ? depthwise_scratch_bytes(rt, args) : conv_scratch_bytes(rt, args);
    return {depthwise() ? "depthwise" : conv_path(rt, args),
            [&rt, args, init, self = *this, zero = ZeroPoint(site, step.in[1]), weights = site.blob(step.blobs[0]),
             scratch = site.scratch(scratch)]() mutable {
              args.weights = *weights;
              args.x_q.zero_point = zero();
              self.start(*rt.kernels, args, init);
              self.depthwise() ? depthwise_conv(rt, args, *scratch) : conv(rt, args, *scratch);
            },
            depthwise() ? std::vector<const char*>() : conv_choices(rt, args)};
  }
};

}  // namespace

StepType gemm_integer_step() { return step_type<GemmInteger>(StepKind::kGemmInteger, "GEMM_INTEGER"); }
StepType conv_integer_step() { return step_type<ConvInteger>(StepKind::kConvInteger, "CONV_INTEGER"); }
StepType gemm_scaled_step() { return step_type<GemmScaled>(StepKind::kGemmScaled, "GEMM_SCALED"); }

}  // namespace ek
