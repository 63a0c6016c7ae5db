// Pooling of float32 images: a maximum, an average, or a norm.
#include "conv/pool_f32.h"

#include <cmath>

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
    each_of_window(a, args.window);
    a.size("channels", args.channels, 1);
    a.flag("average", args.average);
    a.flag("count_include_pad", args.count_include_pad);
    a.real("power", power);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!(power >= 0 && power <= kMostPower) || power != std::floor(power)) return bad_step(step, "damaged power");
    const Window3& w = args.window;
    if (!axes_fit(w)) return bad_step(step, "window does not fit the image");
    if (!window_covers(w)) return bad_step(step, "a window lies wholly in the padding");
    if (!has(step, 1, 0)) return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    const bool fits = x.dtype == DType::kF32 && y.dtype == DType::kF32 &&
                      holds(x, {w.batch, w.in[0], w.in[1], w.in[2], args.channels}) &&
                      holds(y, {w.batch, w.out[0], w.out[1], w.out[2], args.channels});
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
