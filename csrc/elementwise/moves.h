// Operators that only move items of 1, 2, 4 or 8 bytes: picked along each axis by a table, with axes in another order,
// taken from or put where indices of another tensor say.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "kernels/kernels.h"

namespace ek {

inline constexpr size_t kMoveAxes = 8;
using MoveShape = std::array<size_t, kMoveAxes>;  // with leading ones where there are fewer axes

/// y[i, j, ..] = x[t0[i], t1[j], ..], or the filler where a table says -1.
struct PickArgs {
  MoveShape x_shape{}, y_shape{};
  const int32_t* tables = nullptr;  // one behind the other, a side of y each; entries in [-1, side of x)
  size_t item = 1;
  uint64_t filler = 0;  // the bits of an item
  const uint8_t* x = nullptr;
  uint8_t* y = nullptr;
};

/// How a pick goes: lines of y, each made of runs along its last axis that is no plain copy.
struct PickPlan {
  struct Axis {
    size_t side, step;  // step: bytes of x
    const int32_t* table;
  };
  std::array<Axis, kMoveAxes> outer{};  // around a line
  size_t outer_axes = 0, lines = 1;
  enum class Line { kRuns, kEntries, kRepeats };
  Line kind = Line::kRuns;
  const int32_t* line = nullptr;  // pairs of the first place in x (-1: filler) and how many follow; or the table itself
  size_t count = 0;               // of pairs, of entries, or of places that are repeated
  size_t times = 1;               // so often each, from the table's first place on
  size_t block = 1;               // bytes that stay together
  size_t line_bytes = 0;
};

/// `runs` has room for two numbers an entry of the longest table.
PickPlan plan_pick(const PickArgs& args, int32_t* runs);
void pick(const Runtime& rt, const PickArgs& args, const PickPlan& plan);

/// y = transpose(x) of `rank` axes: y_shape[i] = x_shape[perm[i]].
void permute(const Runtime& rt, const uint8_t* x, size_t rank, const size_t* x_shape, const size_t* perm, size_t item,
             uint8_t* y);

/// Indices as tensors hold them.
struct Indices {
  const uint8_t* at = nullptr;
  bool wide = true;  // int64, else int32

  int64_t operator[](size_t i) const {
    if (wide) {
      int64_t value;
      std::memcpy(&value, at + i * sizeof value, sizeof value);
      return value;
    }
    int32_t value;
    std::memcpy(&value, at + i * sizeof value, sizeof value);
    return value;
  }
};

/// The place that an index names, counted from the end where it is negative; n or more where it leaves the axis.
inline size_t place_of(int64_t index, size_t n) {
  return static_cast<size_t>(index < 0 ? static_cast<uint64_t>(index) + n : static_cast<uint64_t>(index));
}

/// What a gather or scatter gives back where every index is in [-n, n): else the number of the first that is not. What
/// it would have taken is zero.
inline constexpr size_t kAllInside = SIZE_MAX;

/// y[o, i] = data[o, index[i]], blocks of `inner` bytes.
struct GatherArgs {
  size_t outer = 0, n = 0, inner = 0, count = 0;
  const uint8_t* data = nullptr;
  Indices index;
  uint8_t* y = nullptr;
};
size_t gather(const Runtime& rt, const GatherArgs& args);

/// y[i] = data[sum of i_k * x_step_k + index[i] * axis_step], items; y and the indices have one shape.
struct GatherElementsArgs {
  MoveShape shape{}, x_step{};  // steps in items, 0 on the axis itself
  size_t n = 0, axis_step = 0, item = 1;
  const uint8_t* data = nullptr;
  Indices index;
  uint8_t* y = nullptr;
};
size_t gather_elements(const Runtime& rt, const GatherElementsArgs& args);

/// y[b, i] = data[b, index[b, i, 0], .., index[b, i, depth - 1]], slices of `slice` bytes.
struct GatherNdArgs {
  size_t batches = 0, count = 0, depth = 0, slice = 0;
  MoveShape sides{};  // of the indexed axes, the first `depth` of them
  const uint8_t* data = nullptr;
  Indices index;
  uint8_t* y = nullptr;
};
size_t gather_nd(const Runtime& rt, const GatherNdArgs& args);

/// What becomes of an item that is there: another takes its place, or is joined with it.
enum class Scatter : uint8_t { kPut, kAdd, kMultiply, kMin, kMax };

/// y[sum of i_k * y_step_k + index[i] * axis_step] = updates[i], in the order of i; updates and indices have one shape.
struct ScatterElementsArgs {
  MoveShape shape{}, y_step{};  // steps in items, 0 on the axis itself
  size_t n = 0, axis_step = 0, item = 1;
  Scatter how = Scatter::kPut;
  MapType type{};  // kF32, kI64 or kI32: of items that are joined
  Indices index;
  const uint8_t* updates = nullptr;
  uint8_t* y = nullptr;  // holds the data
};
size_t scatter_elements(const ScatterElementsArgs& args);

/// y[index[i, 0], .., index[i, depth - 1]] = updates[i], slices of `slice` bytes, in the order of i.
struct ScatterNdArgs {
  size_t count = 0, depth = 0, slice = 0;
  MoveShape sides{};  // of the indexed axes, the first `depth` of them
  Scatter how = Scatter::kPut;
  MapType type{};
  Indices index;
  const uint8_t* updates = nullptr;
  uint8_t* y = nullptr;
};
size_t scatter_nd(const ScatterNdArgs& args);

}  // namespace ek
