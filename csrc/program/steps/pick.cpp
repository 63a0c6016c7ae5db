// Items picked along each of up to eight axes by a table: Pad, Slice, Tile, Expand, nearest Resize, constant Gather.
#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "elementwise/moves.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

struct Pick : NoMacs {
  MoveShape x_shape{}, y_shape{};
  size_t item_bytes = 0;
  int64_t filler = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("x_shape", x_shape);
    a.sizes("y_shape", y_shape);
    a.size("item_bytes", item_bytes);
    a.integer("filler", filler);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (!has(step, 1, 1)) return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    if (x.dtype != y.dtype || item_bytes != dtype_bytes(x.dtype)) return bad_step(step, "damaged item");
    const bool fits = holds(x, x_shape) && holds(y, y_shape);
    if (!fits) return bad_step(step, "shapes do not match its tensors");
    size_t entries = 0;
    for (const size_t side : y_shape) entries += side;  // of eight below 2^31
    return blob_is(index, step, 0, entries * sizeof(int32_t)) ? Status() : bad_step(step, "damaged tables");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    size_t entries = 0;
    for (const size_t side : y_shape) entries += side;
    // The tables are kept: nobody has said that what a file holds stays inside of x.
    int32_t* const tables = site.keep(entries);
    std::memcpy(tables, *site.blob(step.blobs[0]), entries * sizeof(int32_t));
    int32_t* table = tables;
    for (size_t axis = 0; axis < kMoveAxes; table += y_shape[axis++]) {
      for (size_t i = 0; i < y_shape[axis]; ++i) {
        if (table[i] < 0 || static_cast<size_t>(table[i]) >= x_shape[axis]) table[i] = -1;
      }
    }
    PickArgs args;
    args.x_shape = x_shape, args.y_shape = y_shape;
    args.tables = tables;
    args.item = item_bytes;
    args.filler = static_cast<uint64_t>(filler);
    args.x = site.bytes(step.in[0]);
    args.y = site.bytes(step.out[0]);
    const PickPlan plan = plan_pick(args, site.keep(2 * *std::max_element(y_shape.begin(), y_shape.end())));
    return {"move", [&rt, args, plan] { pick(rt, args, plan); }};
  }
};

struct Permute : NoMacs {
  MoveShape x_shape{}, perm{};
  size_t item_bytes = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("x_shape", x_shape);
    a.sizes("perm", perm);
    a.size("item_bytes", item_bytes);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    unsigned seen = 0;
    for (const size_t axis : perm) {
      if (axis >= kMoveAxes) return bad_step(step, "damaged permutation");
      seen |= 1u << axis;
    }
    if (seen != 255) return bad_step(step, "damaged permutation");
    if (!has(step, 1, 0)) return bad_step(step, "wrong number of operands");
    const TensorDef &x = input(index, step), &y = output(index, step);
    if (x.dtype != y.dtype || item_bytes != dtype_bytes(x.dtype)) return bad_step(step, "damaged item");
    return holds(x, x_shape) && holds(y, x_shape) ? Status() : bad_step(step, "shapes do not match its tensors");
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    const Runtime& rt = site.runtime();
    return {"move", [&rt, shape = x_shape, perm = perm, item = item_bytes, x = site.place(step.in[0]),
                     y = site.place(step.out[0])] { permute(rt, *x, kMoveAxes, shape.data(), perm.data(), item, *y); }};
  }
};

}  // namespace

StepType pick_step() { return step_type<Pick>(StepKind::kPick, "PICK"); }
StepType permute_step() { return step_type<Permute>(StepKind::kPermute, "PERMUTE", true); }

}  // namespace ek
