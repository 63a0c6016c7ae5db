// One number of an axis: sums and their kin, and where its largest or smallest value stands.
#include "program/steps/axis.h"

namespace ek {
namespace {

struct Reduce : AlongAxis {
  size_t op = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    AlongAxis::each(a);
    a.size("op", op);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!fits(index, step, 1)) return bad_step(step, "tensors do not match its sizes");
    const DType dtype = input(index, step).dtype;
    const bool has_op = dtype == DType::kF32   ? op <= static_cast<size_t>(ReduceOp::kSumSquares)
                        : dtype == DType::kI64 ? op <= static_cast<size_t>(ReduceOp::kProd) && how() != ReduceOp::kMean
                                               : false;
    return has_op && output(index, step).dtype == dtype ? Status() : bad_step(step, "damaged arguments");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const auto x = site.place(step.in[0]), y = site.place(step.out[0]);
    if (site.tensor(step.in[0]).dtype == DType::kI64) {
      return {"reduce",
              [&rt, op = how(), s = axis, x, y] { reduce(rt, op, items<int64_t>(*x), s, items<int64_t>(*y)); }};
    }
    return {"reduce", [&rt, op = how(), s = axis, x, y] { reduce(rt, op, items<float>(*x), s, items<float>(*y)); }};
  }

 private:
  ReduceOp how() const { return static_cast<ReduceOp>(op); }
};

struct ArgExtreme : AlongAxis {
  bool largest = false, last = false;

  template <typename Arguments>
  void each(Arguments& a) {
    AlongAxis::each(a);
    a.flag("largest", largest);
    a.flag("last", last);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!fits(index, step, 1)) return bad_step(step, "tensors do not match its sizes");
    const bool known = is_real_or_whole(input(index, step).dtype) && output(index, step).dtype == DType::kI64;
    return known ? Status() : bad_step(step, "damaged arguments");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const bool whole = site.tensor(step.in[0]).dtype == DType::kI64;
    return {"scan", [&rt, whole, s = axis, largest = largest, last = last, from = site.place(step.in[0]),
                     to = site.place(step.out[0])] {
              auto* const y = items<int64_t>(*to);
              whole ? arg_extreme(rt, items<int64_t>(*from), s, largest, last, y)
                    : arg_extreme(rt, items<float>(*from), s, largest, last, y);
            }};
  }
};

}  // namespace

StepType reduce_step() { return step_type<Reduce>(StepKind::kReduce, "REDUCE", true); }
StepType arg_extreme_step() { return step_type<ArgExtreme>(StepKind::kArgExtreme, "ARG_EXTREME", true); }

}  // namespace ek
