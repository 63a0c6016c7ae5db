// What a product does with its results where they are real numbers: the arguments of a step that say so.
#pragma once

#include "kernels/epilogue.h"
#include "program/steps/checks.h"

namespace ek {

/// y = activation(product + bias) + addend, or with the addend first. The addend comes behind the `own` inputs of the
/// product.
struct RealEpilogue {
  size_t activation = 0;  // clamp, gelu, gelu_tanh, silu
  bool addend_first = false;
  float lo = 0, hi = 0;  // of a clamp

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("activation", activation);
    a.flag("addend_first", addend_first);
    a.real("lo", lo);
    a.real("hi", hi);
  }

  Status check(const ProgramIndex& index, const Step& step, size_t own = 1) const {
    const DType y = output(index, step).dtype;
    if (y != DType::kF32 && !is_quantized(y)) return bad_step(step, "output dtype is not one it can store");
    if (activation > static_cast<size_t>(Activation::kSilu)) return bad_step(step, "damaged activation");
    if (addend_first && step.in.size() == own) return bad_step(step, "an addend that there is not cannot come first");
    return lo <= hi ? Status() : bad_step(step, "its clamp is not in order");
  }

  Epilogue prepared(const Step& step, StepSite& site, size_t columns, size_t own = 1) const {
    const TensorDef& y = site.tensor(step.out[0]);
    Epilogue e;
    e.kind = is_quantized(y.dtype) ? OutKind::kRealQuantized : OutKind::kFloat32;
    if (is_quantized(y.dtype)) e.out = quant_of(y);
    e.activation = static_cast<Activation>(activation);
    e.lo = lo;
    e.hi = hi;
    if (step.in.size() == own) return e;
    e.addend = reinterpret_cast<const float*>(site.bytes(step.in[own]));
    e.addend_ld = columns;
    e.addend_first = addend_first;
    return e;
  }
};

/// Of a step that quantizes the rows it reads: (rows, k), float32 as an addend of its result is.
inline Status check_real_rows(const ProgramIndex& index, const Step& step, size_t rows, size_t k, size_t columns) {
  const bool addend = step.in.size() == 2;
  const TensorDef &x = input(index, step), &y = output(index, step);
  if (x.dtype != DType::kF32 || (addend && input(index, step, 1).dtype != DType::kF32)) {
    return bad_step(step, "inputs must be float32");
  }
  if (!holds(x, {rows, k}) || !holds(y, {rows, columns}) ||
      (addend && !holds(input(index, step, 1), {rows, columns}))) {
    return bad_step(step, "tensor shapes do not match its sizes");
  }
  return {};
}

}  // namespace ek
