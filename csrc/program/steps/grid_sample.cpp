// Pixels at places that a tensor names.
#include "conv/grid_sample.h"

#include "base/checked.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

struct GridSample : NoMacs {
  size_t batch = 0, height = 0, width = 0, points = 0, channels = 0, mode = 0, padding = 0;
  bool align_corners = false;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("batch", batch, 1);
    a.size("height", height, 1);
    a.size("width", width, 1);
    a.size("points", points, 1);
    a.size("channels", channels, 1);
    a.size("mode", mode);
    a.size("padding", padding);
    a.flag("align_corners", align_corners);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 2, 0)) return bad_step(step, "wrong number of operands");
    if (mode > static_cast<size_t>(GridMode::kCubic)) return bad_step(step, "damaged mode");
    if (padding > static_cast<size_t>(GridPadding::kReflection)) return bad_step(step, "damaged padding");
    const TensorDef &x = input(index, step), &grid = input(index, step, 1), &y = output(index, step);
    size_t pixels = 0;
    const bool counted = product({height, width}, &pixels) && pixels < static_cast<size_t>(kMaxSize) &&
                         height <= kMostGridSide && width <= kMostGridSide;
    if (!counted) return bad_step(step, "its image is too large");
    const bool real = x.dtype == DType::kF32 && grid.dtype == DType::kF32 && y.dtype == DType::kF32;
    const bool fits = real && holds(x, {batch, height, width, channels}) && holds(grid, {batch, points, 2}) &&
                      holds(y, {batch, points, channels});
    return fits ? Status() : bad_step(step, "tensors do not match its sizes");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    GridSampleArgs args;
    args.batch = batch, args.height = height, args.width = width, args.points = points, args.channels = channels;
    args.mode = static_cast<GridMode>(mode), args.padding = static_cast<GridPadding>(padding);
    args.align_corners = align_corners;
    args.x = reinterpret_cast<const float*>(site.bytes(step.in[0]));
    args.grid = reinterpret_cast<const float*>(site.bytes(step.in[1]));
    args.y = reinterpret_cast<float*>(site.bytes(step.out[0]));
    return {"resample_row", [&rt, args] { grid_sample(rt, args); }};
  }
};

}  // namespace

StepType grid_sample_step() { return step_type<GridSample>(StepKind::kGridSample, "GRID_SAMPLE"); }

}  // namespace ek
