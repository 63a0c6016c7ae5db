// Softmax and its logarithm, of float32, over any axis.
#include "program/steps/axis.h"

namespace ek {
namespace {

struct SoftmaxF32 : AlongAxis {
  bool log = false;

  template <typename Arguments>
  void each(Arguments& a) {
    AlongAxis::each(a);
    a.flag("log", log);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!fits(index, step, axis.n)) return bad_step(step, "tensors do not match its sizes");
    const bool real = input(index, step).dtype == DType::kF32 && output(index, step).dtype == DType::kF32;
    return real ? Status() : bad_step(step, "damaged arguments");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    return {"softmax_f32", [&rt, s = axis, log = log, x = site.place(step.in[0]), y = site.place(step.out[0])] {
              softmax_f32(rt, items<float>(*x), s, log, items<float>(*y));
            }};
  }
};

}  // namespace

StepType softmax_f32_step() { return step_type<SoftmaxF32>(StepKind::kSoftmaxF32, "SOFTMAX_F32", true); }

}  // namespace ek
