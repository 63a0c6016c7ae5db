#include "elementwise/rows.h"

#include <algorithm>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kTaskElements = 16384;
constexpr size_t kMostColumns = 1024;  // of a task: what it keeps for each of them stays in the L1 cache
constexpr double kReducedPerUs = 4000, kExponentialsPerUs = 800, kNormalizedPerUs = 2000, kComparedPerUs = 1000;

int threads_for(const Runtime& rt, size_t elements, double per_us) {
  return worth_a_thread(static_cast<double>(elements) / per_us) ? rt.threads : 1;
}

/// body(first, count): of `rows` that are n long.
template <typename Body>
void by_rows(const Runtime& rt, size_t rows, size_t n, double per_us, Body&& body) {
  const size_t per_task = std::max<size_t>(1, kTaskElements / std::max<size_t>(1, n));
  parallel_for(ceil_div(rows, per_task), threads_for(rt, rows * n, per_us), [&](size_t task) {
    const size_t first = task * per_task;
    body(first, std::min(per_task, rows - first));
  });
}

/// body(x, y, columns): where some columns begin in x and in what holds `results` rows of them. Tasks are as wide as
/// rows are long enough for; a shape decides, and no number of threads.
template <typename Body>
void by_columns(const Runtime& rt, const AxisShape& s, size_t results, double per_us, Body&& body) {
  const size_t fair = round_up(std::max<size_t>(1, kTaskElements / s.n), 4 * kStrip);
  const size_t width = std::min({s.inner, kMostColumns, fair}), parts = ceil_div(s.inner, width);
  const size_t per_task = std::max<size_t>(1, kTaskElements / (s.n * width)), pieces = s.outer * parts;
  parallel_for(ceil_div(pieces, per_task), threads_for(rt, s.outer * s.n * s.inner, per_us), [&](size_t task) {
    for (size_t i = task * per_task; i < std::min(pieces, (task + 1) * per_task); ++i) {
      const size_t outer = i / parts, c = i % parts * width;
      body(outer * s.n * s.inner + c, outer * results * s.inner + c,
           ColumnShape{s.n, s.inner, std::min(width, s.inner - c)});
    }
  });
}

}  // namespace

void reduce(const Runtime& rt, ReduceOp op, const float* x, const AxisShape& s, float* y) {
  if (s.inner == 1) {
    return by_rows(rt, s.outer, s.n, kReducedPerUs, [&](size_t first, size_t count) {
      rt.kernels->reduce_rows(op, x + first * s.n, count, s.n, y + first);
    });
  }
  by_columns(rt, s, 1, kReducedPerUs, [&](size_t from, size_t to, const ColumnShape& columns) {
    rt.kernels->reduce_columns(op, x + from, columns, y + to);
  });
}

void reduce(const Runtime& rt, ReduceOp op, const int64_t* x, const AxisShape& s, int64_t* y) {
  by_columns(rt, s, 1, kComparedPerUs, [&](size_t from, size_t to, const ColumnShape& columns) {
    rt.kernels->reduce_i64(op, x + from, columns, y + to);
  });
}

void softmax_f32(const Runtime& rt, const float* x, const AxisShape& s, bool log, float* y) {
  if (s.inner == 1) {
    return by_rows(rt, s.outer, s.n, kExponentialsPerUs, [&](size_t first, size_t count) {
      rt.kernels->softmax_f32_rows(x + first * s.n, count, s.n, log, y + first * s.n);
    });
  }
  by_columns(rt, s, s.n, kExponentialsPerUs, [&](size_t from, size_t to, const ColumnShape& columns) {
    rt.kernels->softmax_f32_columns(x + from, columns, log, y + to);
  });
}

void normalize(const Runtime& rt, const float* x, size_t rows, size_t n, const Normalization& how, float* y) {
  by_rows(rt, rows, n, kNormalizedPerUs,
          [&](size_t first, size_t count) { rt.kernels->normalize_rows(x + first * n, count, n, how, y + first * n); });
}

void cum_sum(const Runtime& rt, const float* x, const AxisShape& s, bool exclusive, bool reverse, float* y) {
  by_columns(rt, s, s.n, kComparedPerUs, [&](size_t from, size_t to, const ColumnShape& columns) {
    rt.kernels->cum_sum(x + from, columns, exclusive, reverse, y + to);
  });
}
void cum_sum(const Runtime& rt, const int64_t* x, const AxisShape& s, bool exclusive, bool reverse, int64_t* y) {
  by_columns(rt, s, s.n, kComparedPerUs, [&](size_t from, size_t to, const ColumnShape& columns) {
    rt.kernels->cum_sum_i64(x + from, columns, exclusive, reverse, y + to);
  });
}

void arg_extreme(const Runtime& rt, const float* x, const AxisShape& s, bool largest, bool last, int64_t* y) {
  by_columns(rt, s, 1, kComparedPerUs, [&](size_t from, size_t to, const ColumnShape& columns) {
    rt.kernels->arg_extreme(x + from, columns, largest, last, y + to);
  });
}
void arg_extreme(const Runtime& rt, const int64_t* x, const AxisShape& s, bool largest, bool last, int64_t* y) {
  by_columns(rt, s, 1, kComparedPerUs, [&](size_t from, size_t to, const ColumnShape& columns) {
    rt.kernels->arg_extreme_i64(x + from, columns, largest, last, y + to);
  });
}

}  // namespace ek
