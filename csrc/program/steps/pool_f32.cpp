// Pooling of float32 images: a maximum, an average, or a norm.
#include "conv/pool_f32.h"

#include <cmath>

#include "base/checked.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

/// p of a norm; each costs a product a tap.
constexpr float kMostPower = 64;

struct PoolF32 : NoMacs {
  PoolF32Args args;
  float power = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("batch", args.batch, 1);
    a.sizes("in", args.in);
    a.sizes("out", args.out);
    a.sizes("kernel", args.kernel);
    a.sizes("stride", args.stride);
    a.sizes("dilation", args.dilation);
    a.sizes("pad", args.pad);
    a.size("channels", args.channels, 1);
    a.flag("average", args.average);
    a.flag("count_include_pad", args.count_include_pad);
    a.real("power", power);
  }

  /// Two of the axes, as the checks of flat windows take them.
  Window flat(size_t down, size_t across) const {
    Window w;
    w.in_h = args.in[down], w.in_w = args.in[across];
    w.out_h = args.out[down], w.out_w = args.out[across];
    w.kernel_h = args.kernel[down], w.kernel_w = args.kernel[across];
    w.stride_h = args.stride[down], w.stride_w = args.stride[across];
    w.dilation_h = args.dilation[down], w.dilation_w = args.dilation[across];
    w.pad_top = args.pad[down], w.pad_left = args.pad[across];
    return w;
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    for (size_t axis = 0; axis < 3; ++axis) {
      const bool there = args.in[axis] > 0 && args.out[axis] > 0 && args.kernel[axis] > 0 && args.stride[axis] > 0 &&
                         args.dilation[axis] > 0;
      if (!there) return bad_step(step, "damaged window");
    }
    if (!(power >= 0 && power <= kMostPower) || power != std::floor(power)) return bad_step(step, "damaged power");
    const Window low = flat(1, 2), high = flat(0, 1);
    if (!window_fits(low) || !window_fits(high)) return bad_step(step, "window does not fit the image");
    if (!window_covers(low) || !window_covers(high)) return bad_step(step, "a window lies wholly in the padding");
    if (!has(step, 1, 0)) return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    const bool fits = x.dtype == DType::kF32 && y.dtype == DType::kF32 &&
                      holds(x, {args.batch, args.in[0], args.in[1], args.in[2], args.channels}) &&
                      holds(y, {args.batch, args.out[0], args.out[1], args.out[2], args.channels});
    return fits ? Status() : bad_step(step, "tensors do not match its sizes");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    PoolF32Args all = args;
    all.power = static_cast<size_t>(power);
    all.x = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    all.y = reinterpret_cast<float*>(site.bytes(step.out[0]));
    return {"pool_f32", [&rt, all] { pool_f32(rt, all); }};
  }
};

}  // namespace

StepType pool_f32_step() { return step_type<PoolF32>(StepKind::kPoolF32, "POOL_F32"); }

}  // namespace ek
