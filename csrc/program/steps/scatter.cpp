// Items put where the indices of a tensor say: ScatterElements and ScatterND. An index that leaves its axis is a fault.
#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "elementwise/moves.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

constexpr size_t kLastScatter = static_cast<size_t>(Scatter::kMax);

/// Data, indices and updates, and a result of the shape and type of the data.
Status check_operands(const ProgramIndex& index, const Step& step, size_t how) {
  if (!has(step, 3, 0)) return bad_step(step, "wrong number of operands");
  const TensorDef &data = input(index, step), &indices = input(index, step, 1), &updates = input(index, step, 2);
  const TensorDef& y = output(index, step);
  if (how > kLastScatter) return bad_step(step, "damaged how");
  const bool joins = y.dtype == DType::kF32 || y.dtype == DType::kI64 || y.dtype == DType::kI32;
  const bool typed = data.dtype == y.dtype && updates.dtype == y.dtype && (how == 0 || joins) &&
                     (indices.dtype == DType::kI64 || indices.dtype == DType::kI32) && bytes_of(data) == bytes_of(y);
  return typed ? Status() : bad_step(step, "its operands do not match its result");
}

template <typename Args>
void bind(const Step& step, StepSite& site, size_t how, Args& args) {
  const DType dtype = site.tensor(step.out[0]).dtype;
  args.how = static_cast<Scatter>(how);
  args.type = dtype == DType::kF32 ? MapType::kF32 : dtype == DType::kI64 ? MapType::kI64 : MapType::kI32;
  args.index = {site.bytes(step.in[1]), site.tensor(step.in[1]).dtype == DType::kI64};
  args.updates = site.bytes(step.in[2]);
  args.y = site.bytes(step.out[0]);
}

/// Of an index that leaves an axis of n places.
void note(Fault* fault, const Step* step, int64_t index, size_t n) {
  fault->note(step, index, -static_cast<int64_t>(n), static_cast<int64_t>(n) - 1);
}

struct ScatterElements : NoMacs {
  MoveShape shape{};  // of indices and updates
  std::array<int64_t, kMoveAxes> y_step{};
  size_t n = 0, axis_step = 0, how = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("shape", shape);
    a.integers("y_step", y_step);
    a.size("n", n);
    a.size("axis_step", axis_step);
    a.size("how", how);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (Status status = check_operands(index, step, how); !status.ok()) return status;
    if (!holds(input(index, step, 1), shape) || !holds(input(index, step, 2), shape)) {
      return bad_step(step, "sizes do not match its tensors");
    }
    size_t last = 0, part = 0;
    for (size_t axis = 0; axis < kMoveAxes; ++axis) {
      const size_t moves = shape[axis] == 0 ? 0 : shape[axis] - 1;
      const bool counted = y_step[axis] >= 0 && checked_mul(moves, static_cast<size_t>(y_step[axis]), &part) &&
                           checked_add(last, part, &last);
      if (!counted) return bad_step(step, "scatters outside of its result");
    }
    const bool counted = checked_mul(n == 0 ? 0 : n - 1, axis_step, &part) && checked_add(last, part, &last);
    const bool inside = counted && (n == 0 || last < elements_of(output(index, step)));
    return inside ? Status() : bad_step(step, "scatters outside of its result");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    ScatterElementsArgs args;
    args.shape = shape;
    for (size_t axis = 0; axis < kMoveAxes; ++axis) args.y_step[axis] = static_cast<size_t>(y_step[axis]);
    args.n = n, args.axis_step = axis_step, args.item = dtype_bytes(site.tensor(step.out[0]).dtype);
    bind(step, site, how, args);
    return {"move",
            [args, data = site.bytes(step.in[0]), bytes = static_cast<size_t>(bytes_of(site.tensor(step.out[0]))),
             at = &step, fault = site.fault()] {
              std::memcpy(args.y, data, bytes);
              const size_t wrong = scatter_elements(args);
              if (wrong != kAllInside) note(fault, at, args.index[wrong], args.n);
            }};
  }
};

struct ScatterNd : NoMacs {
  size_t count = 0, depth = 0, slice = 0, how = 0;
  MoveShape sides{};  // of the indexed axes; ones behind them

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("count", count);
    a.size("depth", depth, 1);
    a.sizes("sides", sides);
    a.size("slice", slice);
    a.size("how", how);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (Status status = check_operands(index, step, how); !status.ok()) return status;
    if (depth > kMoveAxes) return bad_step(step, "damaged depth");
    for (size_t axis = depth; axis < kMoveAxes; ++axis) {
      if (sides[axis] != 1) return bad_step(step, "damaged sides");
    }
    size_t items = slice;
    for (const size_t side : sides) {
      if (!checked_mul(items, side, &items)) return bad_step(step, "sizes do not match its tensors");
    }
    const bool fits = elements_of(output(index, step)) == items && holds(input(index, step, 1), {count, depth}) &&
                      holds(input(index, step, 2), {count, slice});
    return fits ? Status() : bad_step(step, "sizes do not match its tensors");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    ScatterNdArgs args;
    args.count = count, args.depth = depth, args.sides = sides;
    args.slice = slice * dtype_bytes(site.tensor(step.out[0]).dtype);
    bind(step, site, how, args);
    return {"move",
            [args, data = site.bytes(step.in[0]), bytes = static_cast<size_t>(bytes_of(site.tensor(step.out[0]))),
             at = &step, fault = site.fault()] {
              std::memcpy(args.y, data, bytes);
              const size_t wrong = scatter_nd(args);
              if (wrong != kAllInside) note(fault, at, args.index[wrong], args.sides[wrong % args.depth]);
            }};
  }
};

}  // namespace

StepType scatter_elements_step() { return step_type<ScatterElements>(StepKind::kScatterElements, "SCATTER_ELEMENTS"); }
StepType scatter_nd_step() { return step_type<ScatterNd>(StepKind::kScatterNd, "SCATTER_ND"); }

}  // namespace ek
