// Running sums along an axis.
#include "program/steps/axis.h"

namespace ek {
namespace {

struct CumSum : AlongAxis {
  bool exclusive = false, reverse = false;

  template <typename Arguments>
  void each(Arguments& a) {
    AlongAxis::each(a);
    a.flag("exclusive", exclusive);
    a.flag("reverse", reverse);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!fits(index, step, axis.n)) return bad_step(step, "tensors do not match its sizes");
    const DType dtype = input(index, step).dtype;
    return is_real_or_whole(dtype) && output(index, step).dtype == dtype ? Status()
                                                                         : bad_step(step, "damaged arguments");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const bool whole = site.tensor(step.in[0]).dtype == DType::kI64;
    return {"scan", [&rt, whole, s = axis, exclusive = exclusive, reverse = reverse, x = site.place(step.in[0]),
                     y = site.place(step.out[0])] {
              whole ? cum_sum(rt, items<int64_t>(*x), s, exclusive, reverse, items<int64_t>(*y))
                    : cum_sum(rt, items<float>(*x), s, exclusive, reverse, items<float>(*y));
            }};
  }
};

}  // namespace

StepType cum_sum_step() { return step_type<CumSum>(StepKind::kCumSum, "CUM_SUM", true); }

}  // namespace ek
