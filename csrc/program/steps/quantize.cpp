// Between float32 and 8 bits: in place of a tensor, or with an image's axes turned on the way (NCHW outside, NHWC
// within). These stand at the borders of nearly every program, so they read and write the caller's arrays.
#include "elementwise/elementwise.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

/// One input of one kind, one output of the other, with as many elements.
Status check_pair(const ProgramIndex& index, const Step& step, bool quantizes) {
  if (!has(step, 1, 0)) return bad_step(step, "wrong number of operands");
  const TensorDef &x = input(index, step), &y = output(index, step);
  if (elements_of(x) != elements_of(y)) return bad_step(step, "tensors differ in size");
  const TensorDef &real = quantizes ? x : y, &codes = quantizes ? y : x;
  return real.dtype == DType::kF32 && is_quantized(codes.dtype) ? Status() : bad_step(step, "damaged arguments");
}

float* floats(uint8_t* bytes) { return reinterpret_cast<float*>(bytes); }

struct Quantize : NoArguments {
  Status check(const ProgramIndex& index, const Step& step) const { return check_pair(index, step, true); }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const TensorDef& y = site.tensor(step.out[0]);
    return {"quantize", [&rt, n = elements_of(y), q = quant_of(y), from = site.place(step.in[0]),
                         to = site.place(step.out[0])] { quantize(rt, floats(*from), n, q, *to); }};
  }
};

struct Dequantize : NoArguments {
  Status check(const ProgramIndex& index, const Step& step) const { return check_pair(index, step, false); }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const TensorDef& x = site.tensor(step.in[0]);
    return {"quantize", [&rt, n = elements_of(x), q = quant_of(x), from = site.place(step.in[0]),
                         to = site.place(step.out[0])] { dequantize(rt, *from, n, q, floats(*to)); }};
  }
};

struct Image : NoMacs {
  size_t batch = 0, channels = 0, pixels = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("batch", batch);
    a.size("channels", channels);
    a.size("pixels", pixels);
  }

  Status check_image(const ProgramIndex& index, const Step& step, bool quantizes) const {
    EK_RETURN_IF_ERROR(check_pair(index, step, quantizes));
    return holds(input(index, step), {batch, channels, pixels}) ? Status()
                                                                : bad_step(step, "tensors do not match its sizes");
  }
};

struct QuantizeNchw : Image {
  Status check(const ProgramIndex& index, const Step& step) const { return check_image(index, step, true); }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    return {"quantize", [&rt, i = *this, q = quant_of(site.tensor(step.out[0])), from = site.place(step.in[0]),
                         to = site.place(step.out[0])] {
              quantize_nchw_to_nhwc(rt, floats(*from), i.batch, i.channels, i.pixels, q, *to);
            }};
  }
};

struct DequantizeNchw : Image {
  Status check(const ProgramIndex& index, const Step& step) const { return check_image(index, step, false); }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    return {"quantize", [&rt, i = *this, q = quant_of(site.tensor(step.in[0])), from = site.place(step.in[0]),
                         to = site.place(step.out[0])] {
              dequantize_nhwc_to_nchw(rt, *from, i.batch, i.channels, i.pixels, q, floats(*to));
            }};
  }
};

}  // namespace

StepType quantize_step() { return step_type<Quantize>(StepKind::kQuantize, "QUANTIZE", true); }
StepType quantize_nchw_step() { return step_type<QuantizeNchw>(StepKind::kQuantizeNchw, "QUANTIZE_NCHW", true); }
StepType dequantize_step() { return step_type<Dequantize>(StepKind::kDequantize, "DEQUANTIZE", true); }
StepType dequantize_nchw_step() {
  return step_type<DequantizeNchw>(StepKind::kDequantizeNchw, "DEQUANTIZE_NCHW", true);
}

}  // namespace ek
