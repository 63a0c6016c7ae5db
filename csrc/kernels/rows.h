// Many values become one, or are put in proportion to each other: along rows, or down columns that lie side by side.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"

namespace ek {

enum class ReduceOp : uint8_t { kSum, kMean, kMax, kMin, kProd, kSumAbs, kSumSquares };

/// n rows of `width` columns, `step` items from row to row.
struct ColumnShape {
  size_t n, step, width;
};

struct Normalization {
  float epsilon;
  bool centered;
  const float* scale;  // of each column, or null
  const float* bias;   // the same; null where there is no scale
};

// Along a row lane l of 16 takes the elements l, l + 16, .. in turn, and the lanes meet in the tree of sum_lanes; down
// a column elements follow each other. A NaN makes every result a NaN that it has a part in; it is the extreme of its
// row.
struct RowKernels {
  // One number of each of some rows of n; one of each column. A mean is the sum divided by n.
  EK_KERNEL void (*reduce_rows)(ReduceOp op, const float* x, size_t rows, size_t n, float* y);
  EK_KERNEL void (*reduce_columns)(ReduceOp op, const float* x, ColumnShape shape, float* y);
  // Sum, largest, smallest and product of columns, mod 2^64.
  EK_KERNEL void (*reduce_i64)(ReduceOp op, const int64_t* x, ColumnShape shape, int64_t* y);
  // y = exp(x - max) * (1 / sum), or (x - max) - log(sum). Without a finite value, or beside infinity: NaN.
  EK_KERNEL void (*softmax_f32_rows)(const float* x, size_t rows, size_t n, bool log, float* y);
  EK_KERNEL void (*softmax_f32_columns)(const float* x, ColumnShape shape, bool log, float* y);  // y has x's step
  // y = (x - mean) / sqrt(mean of squares of that + epsilon), then times scale, plus bias, fused.
  EK_KERNEL void (*normalize_rows)(const float* x, size_t rows, size_t n, Normalization how, float* y);
  // Running sums down the columns, in order or from the last row up; exclusive: of those before.
  EK_KERNEL void (*cum_sum)(const float* x, ColumnShape shape, bool exclusive, bool reverse, float* y);
  EK_KERNEL void (*cum_sum_i64)(const int64_t* x, ColumnShape shape, bool exclusive, bool reverse, int64_t* y);
  // In which row a column has its largest (smallest) value: the first such row, or the last.
  EK_KERNEL void (*arg_extreme)(const float* x, ColumnShape shape, bool largest, bool last, int64_t* y);
  EK_KERNEL void (*arg_extreme_i64)(const int64_t* x, ColumnShape shape, bool largest, bool last, int64_t* y);
};

#define EK_ROW_KERNELS(X) \
  X(reduce_rows)          \
  X(reduce_columns)       \
  X(reduce_i64)           \
  X(softmax_f32_rows)     \
  X(softmax_f32_columns)  \
  X(normalize_rows)       \
  X(cum_sum)              \
  X(cum_sum_i64)          \
  X(arg_extreme)          \
  X(arg_extreme_i64)

}  // namespace ek
