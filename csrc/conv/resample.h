// Resizing along one axis by weighted neighbors: linear, cubic, any filter.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace ek {

/// x is [outer, n, inner], y [outer, m, inner]: y[o, j, i] = sum over t of weight[j][t] * x[o, index[j][t], i].
struct ResampleArgs {
  size_t outer = 0, n = 0, m = 0, inner = 0, taps = 0;
  const int32_t* index = nullptr;  // [m][taps], or resample_places()
  const float* weight = nullptr;   // the same
  const void* x = nullptr;         // float32, or 8 bits
  void* y = nullptr;
  const QuantParams *x_codes = nullptr, *y_codes = nullptr;  // of 8 bits: only where resamples_codes()
};

/// Whether rows of `inner` floats are too short for vectors of their own. `index` and `weight` are then a table of m *
/// inner results: [taps][m * inner].
bool resamples_lanes(size_t inner);
/// Whether 8 bits can be read or written on the way: some floats at a time have to fit on the stack.
bool resamples_codes(size_t inner, size_t taps);
void resample_places(const ResampleArgs& args, int32_t* index, float* weight);

void resample(const Runtime& rt, const ResampleArgs& args);

}  // namespace ek
