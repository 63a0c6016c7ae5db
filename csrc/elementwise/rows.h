// What goes along one axis of a tensor: reductions, softmax, normalization, running sums, places of extremes. Shared
// among threads by rows, or by columns where the axis is not the last one; never within a sum.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace ek {

/// A tensor around the axis that is gone along.
struct AxisShape {
  size_t outer, n, inner;
};

void reduce(const Runtime& rt, ReduceOp op, const float* x, const AxisShape& shape, float* y);
/// kSum, kMax, kMin, kProd.
void reduce(const Runtime& rt, ReduceOp op, const int64_t* x, const AxisShape& shape, int64_t* y);
void softmax_f32(const Runtime& rt, const float* x, const AxisShape& shape, bool log, float* y);
void normalize(const Runtime& rt, const float* x, size_t rows, size_t n, const Normalization& how, float* y);
void cum_sum(const Runtime& rt, const float* x, const AxisShape& shape, bool exclusive, bool reverse, float* y);
void cum_sum(const Runtime& rt, const int64_t* x, const AxisShape& shape, bool exclusive, bool reverse, int64_t* y);
void arg_extreme(const Runtime& rt, const float* x, const AxisShape& shape, bool largest, bool last, int64_t* y);
void arg_extreme(const Runtime& rt, const int64_t* x, const AxisShape& shape, bool largest, bool last, int64_t* y);

}  // namespace ek
