// Slice and Pad of bytes, Transpose of items: over four axes, those in front of 1 where there are fewer.
#include "base/checked.h"
#include "elementwise/elementwise.h"
#include "program/steps/checks.h"

namespace ek {
namespace {

using Shape = std::array<size_t, 4>;

/// Whether x and y have these shapes, in items of so many bytes.
Status check_shapes(const ProgramIndex& index, const Step& step, const Shape& x, const Shape& y, size_t item) {
  size_t x_bytes = 0, y_bytes = 0;
  const bool fits = has(step, 1, 0) && product({x[0], x[1], x[2], x[3], item}, &x_bytes) &&
                    bytes_of(input(index, step)) == x_bytes && product({y[0], y[1], y[2], y[3], item}, &y_bytes) &&
                    bytes_of(output(index, step)) == y_bytes;
  return fits ? Status() : bad_step(step, "shapes do not match its tensors");
}

struct Slice : NoMacs {
  Shape x_shape{}, y_shape{};
  std::array<int64_t, 4> start{}, stride{};

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("x_shape", x_shape);
    a.sizes("y_shape", y_shape);
    a.integers("start", start);
    a.integers("stride", stride);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    for (size_t i = 0; i < 4; ++i) {
      if (stride[i] == 0 || stride[i] <= -kMaxSize || stride[i] >= kMaxSize) return bad_step(step, "damaged slice");
      if (y_shape[i] == 0) continue;
      const auto from = static_cast<int64_t>(x_shape[i]);
      if (start[i] < 0 || start[i] >= from) return bad_step(step, "slice leaves its input");
      const int64_t last = start[i] + (static_cast<int64_t>(y_shape[i]) - 1) * stride[i];  // all below 2^31
      if (last < 0 || last >= from) return bad_step(step, "slice leaves its input");
    }
    return check_shapes(index, step, x_shape, y_shape, 1);
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    std::array<ptrdiff_t, 4> from{}, by{};
    for (size_t i = 0; i < 4; ++i)
      from[i] = static_cast<ptrdiff_t>(start[i]), by[i] = static_cast<ptrdiff_t>(stride[i]);
    return {"move", [xs = x_shape, ys = y_shape, from, by, x = site.bytes(step.in[0]), y = site.bytes(step.out[0])] {
              slice4(x, xs.data(), ys.data(), from.data(), by.data(), y);
            }};
  }
};

struct Pad : NoMacs {
  Shape x_shape{}, y_shape{}, before{};
  size_t value = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("x_shape", x_shape);
    a.sizes("y_shape", y_shape);
    a.sizes("before", before);
    a.size("value", value);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    if (value > 255) return bad_step(step, "damaged pad value");
    for (size_t i = 0; i < 4; ++i) {
      if (before[i] > y_shape[i] || x_shape[i] > y_shape[i] - before[i]) {
        return bad_step(step, "pad does not hold its input");
      }
    }
    return check_shapes(index, step, x_shape, y_shape, 1);
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    return {"move", [xs = x_shape, ys = y_shape, before = before, code = static_cast<uint8_t>(value),
                     x = site.bytes(step.in[0]),
                     y = site.bytes(step.out[0])] { pad4(x, xs.data(), ys.data(), before.data(), code, y); }};
  }
};

struct Transpose : NoMacs {
  Shape x_shape{}, perm{};
  size_t item_bytes = 0;

  template <typename Arguments>
  void each(Arguments& a) {
    a.sizes("x_shape", x_shape);
    a.sizes("perm", perm);
    a.size("item_bytes", item_bytes);
  }

  Status check(const ProgramIndex& index, const Step& step) const {
    unsigned seen = 0;
    Shape y_shape{};
    for (size_t i = 0; i < 4; ++i) {
      if (perm[i] > 3) return bad_step(step, "damaged permutation");
      y_shape[i] = x_shape[perm[i]];
      seen |= 1u << perm[i];
    }
    if (seen != 15 || (item_bytes != 1 && item_bytes != 2 && item_bytes != 4 && item_bytes != 8)) {
      return bad_step(step, "damaged permutation");
    }
    return check_shapes(index, step, x_shape, y_shape, item_bytes);
  }

  Prepared prepare(const Step& step, StepSite& site) const {
    std::array<int, 4> axes{};
    for (size_t i = 0; i < 4; ++i) axes[i] = static_cast<int>(perm[i]);
    const Runtime& rt = site.runtime();
    return {"move", [&rt, xs = x_shape, axes, item = item_bytes, x = site.place(step.in[0]),
                     y = site.place(step.out[0])] { transpose4(rt, *x, xs.data(), axes.data(), item, *y); }};
  }
};

}  // namespace

StepType slice_step() { return step_type<Slice>(StepKind::kSlice, "SLICE"); }
StepType pad_step() { return step_type<Pad>(StepKind::kPad, "PAD"); }
StepType transpose_step() { return step_type<Transpose>(StepKind::kTranspose, "TRANSPOSE", true); }

}  // namespace ek
