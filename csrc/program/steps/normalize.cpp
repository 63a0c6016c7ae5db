// Rows around their mean, divided by their spread, with a scale and a bias for each column: LayerNormalization, and
// RMSNormalization where nothing is centered.
#include "program/steps/axis.h"

namespace ek {
namespace {

struct Normalize : NoMacs {
  size_t rows = 0, columns = 0;
  float epsilon = 0;
  bool centered = false;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("rows", rows);
    a.size("columns", columns, 1);
    a.real("epsilon", epsilon);
    a.flag("centered", centered);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (step.blobs.size() > 2 || !has(step, 1, step.blobs.size())) return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    if (!holds(x, {rows, columns}) || !holds(y, {rows, columns}))
      return bad_step(step, "tensors do not match its sizes");
    bool fits = x.dtype == DType::kF32 && y.dtype == DType::kF32;
    for (size_t i = 0; i < step.blobs.size(); ++i) fits = fits && blob_is(index, step, i, columns * sizeof(float));
    return fits ? Status() : bad_step(step, "damaged arguments");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const auto blob = [&](size_t i) -> const uint8_t* const* {
      return i < step.blobs.size() ? site.blob(step.blobs[i]) : nullptr;
    };
    const auto floats = [](const uint8_t* const* at) {
      return at == nullptr ? nullptr : reinterpret_cast<const float*>(*at);
    };
    return {"normalize", [&rt, s = *this, scale = blob(0), bias = blob(1), floats, x = site.place(step.in[0]),
                          y = site.place(step.out[0])] {
              const Normalization how{s.epsilon, s.centered, floats(scale), floats(bias)};
              normalize(rt, items<float>(*x), s.rows, s.columns, how, items<float>(*y));
            }};
  }
};

}  // namespace

StepType normalize_step() { return step_type<Normalize>(StepKind::kNormalize, "NORMALIZE", true); }

}  // namespace ek
