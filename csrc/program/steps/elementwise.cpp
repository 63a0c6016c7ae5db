// Add of two 8-bit tensors, and any function of one byte as a table.
#include "elementwise/elementwise.h"

#include "program/steps/checks.h"

namespace ek {
namespace {

/// 8-bit inputs and output of as many elements each.
Status check_bytes(const ProgramIndex& index, const Step& step, size_t inputs, size_t blobs) {
  if (!has(step, inputs, blobs)) return bad_step(step, "wrong number of operands");
  const TensorDef& y = output(index, step);
  bool codes = is_quantized(y.dtype);
  for (size_t i = 0; i < inputs; ++i) {
    if (elements_of(input(index, step, i)) != elements_of(y)) return bad_step(step, "tensors differ in size");
    codes = codes && is_quantized(input(index, step, i).dtype);
  }
  return codes ? Status() : bad_step(step, "damaged arguments");
}

struct Add : NoMacs {
  float lo = 0, hi = 0;  // around the result's zero point

  template <typename Arguments>
  void each(Arguments& a) {
    a.real("lo", lo);
    a.real("hi", hi);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    EK_RETURN_IF_ERROR(check_bytes(index, step, 2, 0));
    return clamp_inside(lo, hi, quant_of(output(index, step))) ? Status() : bad_step(step, "damaged arguments");
  }

  bool replaces(const ProgramIndex&, const Step&, size_t) const { return true; }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const TensorDef& y = site.tensor(step.out[0]);
    return {"elementwise",
            [&rt, lo = lo, hi = hi, n = elements_of(y), qa = quant_of(site.tensor(step.in[0])),
             qb = quant_of(site.tensor(step.in[1])), qy = quant_of(y), a = site.bytes(step.in[0]),
             b = site.bytes(step.in[1]), to = site.bytes(step.out[0])] { add(rt, a, qa, b, qb, n, qy, lo, hi, to); }};
  }
};

struct Lookup : NoArguments {
  Status check(const ProgramIndex& index, const Step& step) const {
    EK_RETURN_IF_ERROR(check_bytes(index, step, 1, 1));
    return blob_is(index, step, 0, 256) ? Status() : bad_step(step, "damaged arguments");
  }

  bool replaces(const ProgramIndex&, const Step&, size_t) const { return true; }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    return {"lookup", [&rt, n = elements_of(site.tensor(step.out[0])), x = site.bytes(step.in[0]),
                       table = site.blob(step.blobs[0]), y = site.bytes(step.out[0])] { lookup(rt, x, n, *table, y); }};
  }
};

}  // namespace

StepType add_step() { return step_type<Add>(StepKind::kAdd, "ADD"); }
StepType lookup_step() { return step_type<Lookup>(StepKind::kLookup, "LOOKUP"); }

}  // namespace ek
