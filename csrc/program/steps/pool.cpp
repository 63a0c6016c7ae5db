// Pooling over images. A maximum keeps its input's scale; an average has one of its own.
#include "program/steps/checks.h"

namespace ek {
namespace {

struct Pool : NoMacs {
  Window window;
  size_t channels = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    each_of_window(a, window);
    a.size("channels", channels, 1);
  }

  Status check_pool(const ProgramIndex& index, const Step& step) const {
    const Window& w = window;
    if (!window_fits(w)) return bad_step(step, "window does not fit the image");
    if (!window_covers(w)) return bad_step(step, "a window lies wholly in the padding");
    if (!has(step, 1, 0)) return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    const bool fits = is_quantized(x.dtype) && is_quantized(y.dtype) && holds(x, {w.batch, w.in_h, w.in_w, channels}) &&
                      holds(y, {w.batch, w.out_h, w.out_w, channels});
    return fits ? Status() : bad_step(step, "tensors do not match its sizes");
  }

  PoolArgs arguments(const Step& step, StepSite& site) const {
    PoolArgs args;
    args.window = window;
    args.channels = channels;
    args.x = site.bytes(step.in[0]);
    args.y = site.bytes(step.out[0]);
    args.x_q = quant_of(site.tensor(step.in[0]));
    args.y_q = quant_of(site.tensor(step.out[0]));
    return args;
  }
};

struct MaxPool : Pool {
  Status check(const ProgramIndex& index, const Step& step) const {
    EK_RETURN_IF_ERROR(check_pool(index, step));
    const TensorDef &x = input(index, step), &y = output(index, step);
    const bool same = x.dtype == y.dtype && x.scale == y.scale && x.zero_point == y.zero_point;
    return same ? Status() : bad_step(step, "a maximum keeps its input's quantization");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    const PoolArgs args = arguments(step, site);
    uint8_t* const* const scratch = site.scratch(pool_scratch_bytes(rt, args));
    return {"pool", [&rt, args, scratch] { max_pool(rt, args, *scratch); }};
  }
};

struct AveragePool : Pool {
  bool count_include_pad = false;

  template <typename Arguments>
  void each(Arguments& a) {
    Pool::each(a);
    a.flag("count_include_pad", count_include_pad);
  }

  Status check(const ProgramIndex& index, const Step& step) const { return check_pool(index, step); }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    PoolArgs args = arguments(step, site);
    args.count_include_pad = count_include_pad;
    uint8_t* const* const scratch = site.scratch(pool_scratch_bytes(rt, args));
    return {"pool", [&rt, args, scratch] { average_pool(rt, args, *scratch); }};
  }
};

}  // namespace

StepType max_pool_step() { return step_type<MaxPool>(StepKind::kMaxPool, "MAX_POOL"); }
StepType average_pool_step() { return step_type<AveragePool>(StepKind::kAveragePool, "AVERAGE_POOL"); }

}  // namespace ek
