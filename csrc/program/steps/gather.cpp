// Items where the indices of a tensor say: Gather, GatherElements, GatherND. An index that leaves its axis is a fault.
#include "base/checked.h"
#include "elementwise/moves.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

bool is_index(const TensorDef& tensor) { return tensor.dtype == DType::kI64 || tensor.dtype == DType::kI32; }

Indices indices_of(StepSite& site, uint32_t id) { return {site.bytes(id), site.tensor(id).dtype == DType::kI64}; }

/// Of an index that leaves an axis of n places.
void note(Fault* fault, const Step* step, int64_t index, size_t n) {
  fault->note(step, index, -static_cast<int64_t>(n), static_cast<int64_t>(n) - 1);
}

struct Gather : NoMacs {
  size_t outer = 0, n = 0, inner_bytes = 0, count = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("outer", outer);
    a.size("n", n);
    a.size("inner_bytes", inner_bytes);
    a.size("count", count);
  }

  /// Data that is constant is a blob; the indices are the last input.
  Status check(const ProgramIndex& index, const Step& step) const {
    const bool constant = step.blobs.size() == 1;
    if (!has(step, constant ? 1 : 2, constant ? 1 : 0)) return bad_step(step, "wrong number of operands");
    const TensorDef &indices = input(index, step, step.in.size() - 1), &y = output(index, step);
    size_t data_bytes = 0, y_bytes = 0;
    const bool fits = product({outer, n, inner_bytes}, &data_bytes) && product({outer, count, inner_bytes}, &y_bytes) &&
                      is_index(indices) && holds(indices, {count}) && bytes_of(y) == y_bytes;
    if (!fits) return bad_step(step, "sizes do not match its tensors");
    if (constant) return blob_is(index, step, 0, data_bytes) ? Status() : bad_step(step, "damaged data");
    const TensorDef& data = input(index, step);
    return data.dtype == y.dtype && bytes_of(data) == data_bytes ? Status() : bad_step(step, "damaged data");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    GatherArgs args;
    args.outer = outer, args.n = n, args.inner = inner_bytes, args.count = count;
    args.index = indices_of(site, step.in.back());
    args.y = site.bytes(step.out[0]);
    const uint8_t* const* const blob = step.blobs.empty() ? nullptr : site.blob(step.blobs[0]);
    if (blob == nullptr) args.data = site.bytes(step.in[0]);
    return {"move", [&rt, args, blob, at = &step, fault = site.fault()]() mutable {
              if (blob != nullptr) args.data = *blob;
              const size_t wrong = gather(rt, args);
              if (wrong != kAllInside) note(fault, at, args.index[wrong], args.n);
            }};
  }
};

struct GatherElements : NoMacs {
  MoveShape y_shape{};
  std::array<int64_t, kMoveAxes> x_step{};
  size_t n = 0, axis_step = 0, item_bytes = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("y_shape", y_shape);
    a.integers("x_step", x_step);
    a.size("n", n);
    a.size("axis_step", axis_step);
    a.size("item_bytes", item_bytes);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 2, 0)) return bad_step(step, "wrong number of operands");
    const TensorDef &data = input(index, step), &indices = input(index, step, 1), &y = output(index, step);
    const bool fits = data.dtype == y.dtype && item_bytes == dtype_bytes(y.dtype) && is_index(indices) &&
                      holds(y, y_shape) && elements_of(indices) == elements_of(y);
    if (!fits) return bad_step(step, "sizes do not match its tensors");
    size_t last = 0, part = 0;
    for (size_t axis = 0; axis < kMoveAxes; ++axis) {
      if (x_step[axis] < 0) return bad_step(step, "damaged x_step");
      const size_t moves = y_shape[axis] == 0 ? 0 : y_shape[axis] - 1;
      const bool counted =
          checked_mul(moves, static_cast<size_t>(x_step[axis]), &part) && checked_add(last, part, &last);
      if (!counted) return bad_step(step, "gathers outside of its data");
    }
    const bool counted = checked_mul(n == 0 ? 0 : n - 1, axis_step, &part) && checked_add(last, part, &last);
    const bool inside = counted && (n == 0 || last < elements_of(data));
    return inside ? Status() : bad_step(step, "gathers outside of its data");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    GatherElementsArgs args;
    args.shape = y_shape;
    for (size_t axis = 0; axis < kMoveAxes; ++axis) args.x_step[axis] = static_cast<size_t>(x_step[axis]);
    args.n = n, args.axis_step = axis_step, args.item = item_bytes;
    args.data = site.bytes(step.in[0]);
    args.index = indices_of(site, step.in[1]);
    args.y = site.bytes(step.out[0]);
    return {"move", [&rt, args, at = &step, fault = site.fault()] {
              const size_t wrong = gather_elements(rt, args);
              if (wrong != kAllInside) note(fault, at, args.index[wrong], args.n);
            }};
  }
};

struct GatherNd : NoMacs {
  size_t batches = 0, count = 0, depth = 0, slice_bytes = 0;
  MoveShape sides{};  // of the indexed axes; ones behind them

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("batches", batches);
    a.size("count", count);
    a.size("depth", depth, 1);
    a.sizes("sides", sides);
    a.size("slice_bytes", slice_bytes);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 2, 0)) return bad_step(step, "wrong number of operands");
    if (depth > kMoveAxes) return bad_step(step, "damaged depth");
    for (size_t axis = depth; axis < kMoveAxes; ++axis) {
      if (sides[axis] != 1) return bad_step(step, "damaged sides");
    }
    const TensorDef &data = input(index, step), &indices = input(index, step, 1), &y = output(index, step);
    size_t data_bytes = batches, y_bytes = 0;
    for (const size_t side : sides) {
      if (!checked_mul(data_bytes, side, &data_bytes)) return bad_step(step, "sizes do not match its tensors");
    }
    const bool fits = checked_mul(data_bytes, slice_bytes, &data_bytes) && bytes_of(data) == data_bytes &&
                      product({batches, count, slice_bytes}, &y_bytes) && bytes_of(y) == y_bytes &&
                      data.dtype == y.dtype && is_index(indices) && holds(indices, {batches, count, depth});
    return fits ? Status() : bad_step(step, "sizes do not match its tensors");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    GatherNdArgs args;
    args.batches = batches, args.count = count, args.depth = depth, args.slice = slice_bytes;
    args.sides = sides;
    args.data = site.bytes(step.in[0]);
    args.index = indices_of(site, step.in[1]);
    args.y = site.bytes(step.out[0]);
    return {"move", [&rt, args, at = &step, fault = site.fault()] {
              const size_t wrong = gather_nd(rt, args);
              if (wrong != kAllInside) note(fault, at, args.index[wrong], args.sides[wrong % args.depth]);
            }};
  }
};

}  // namespace

StepType gather_step() { return step_type<Gather>(StepKind::kGather, "GATHER"); }
StepType gather_elements_step() { return step_type<GatherElements>(StepKind::kGatherElements, "GATHER_ELEMENTS"); }
StepType gather_nd_step() { return step_type<GatherNd>(StepKind::kGatherNd, "GATHER_ND"); }

}  // namespace ek
