// Kinds that go along one axis of a tensor.
#pragma once

#include "elementwise/rows.h"
#include "program/steps/checks.h"

namespace ek {

/// Base of their arguments.
struct AlongAxis : NoMacs {
  AxisShape axis{0, 0, 0};

  template <typename Arguments>
  void each(Arguments& a) {
    a.size("outer", axis.outer);
    a.size("n", axis.n, 1);
    a.size("inner", axis.inner);
  }

  /// One input of this shape, one output with `results` rows of its columns.
  bool fits(const ProgramIndex& index, const Step& step, size_t results) const {
    return has(step, 1, 0) && holds(input(index, step), {axis.outer, axis.n, axis.inner}) &&
           holds(output(index, step), {axis.outer, results, axis.inner});
  }
};

template <typename T>
T* items(uint8_t* bytes) {
  return reinterpret_cast<T*>(bytes);
}

inline bool is_real_or_whole(DType dtype) { return dtype == DType::kF32 || dtype == DType::kI64; }

}  // namespace ek
