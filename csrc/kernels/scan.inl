// Running sums, places of extremes, and reductions of whole numbers: plain loops over columns, which the compiler turns
// into vectors.
#pragma once

#include "kernels/rows.inl"

namespace ek {
namespace {

EK_INLINE float plus(float a, float b) { return a + b; }
EK_INLINE int64_t plus(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
}
EK_INLINE int64_t times(int64_t a, int64_t b) {
  return static_cast<int64_t>(static_cast<uint64_t>(a) * static_cast<uint64_t>(b));
}

template <typename Join>
EK_INLINE void reduce_whole(const int64_t* x, ColumnShape s, int64_t start, int64_t* y, Join&& join) {
  for (size_t c = 0; c < s.width; ++c) y[c] = start;
  for (size_t r = 0; r < s.n; ++r) {
    for (size_t c = 0; c < s.width; ++c) y[c] = join(y[c], x[r * s.step + c]);
  }
}
void reduce_i64(ReduceOp op, const int64_t* x, ColumnShape s, int64_t* y) {
  using I = int64_t;
  switch (op) {
    case ReduceOp::kMax:
      return reduce_whole(x, s, INT64_MIN, y, [](I a, I b) EK_LAMBDA { return a > b ? a : b; });
    case ReduceOp::kMin:
      return reduce_whole(x, s, INT64_MAX, y, [](I a, I b) EK_LAMBDA { return a < b ? a : b; });
    case ReduceOp::kProd:
      return reduce_whole(x, s, 1, y, [](I a, I b) EK_LAMBDA { return times(a, b); });
    default:  // the others are refused where a step is checked
      return reduce_whole(x, s, 0, y, [](I a, I b) EK_LAMBDA { return plus(a, b); });
  }
}

template <typename T>
EK_INLINE void running_sum(const T* x, ColumnShape s, bool exclusive, bool reverse, T* y) {
  const auto at = [&](size_t r) EK_LAMBDA { return (reverse ? s.n - 1 - r : r) * s.step; };
  if (s.width == 1) {  // without a trip through memory between two additions
    T sum = 0;
    for (size_t r = 0; r < s.n; ++r) {
      const T next = r == 0 ? x[at(r)] : plus(sum, x[at(r)]);
      y[at(r)] = exclusive ? sum : next;
      sum = next;
    }
    return;
  }
  for (size_t c = 0; s.n > 0 && c < s.width; ++c) y[at(0) + c] = exclusive ? 0 : x[at(0) + c];
  for (size_t r = 1; r < s.n; ++r) {
    const T* const before = y + at(r - 1);
    const T* const taken = x + at(exclusive ? r - 1 : r);
    T* const to = y + at(r);
    for (size_t c = 0; c < s.width; ++c) to[c] = exclusive && r == 1 ? taken[c] : plus(before[c], taken[c]);
  }
}
void cum_sum(const float* x, ColumnShape s, bool exclusive, bool reverse, float* y) {
  running_sum(x, s, exclusive, reverse, y);
}
void cum_sum_i64(const int64_t* x, ColumnShape s, bool exclusive, bool reverse, int64_t* y) {
  running_sum(x, s, exclusive, reverse, y);
}

EK_INLINE bool is_nan(float x) { return x != x; }
EK_INLINE bool is_nan(int64_t) { return false; }

/// Whether v is more extreme than what was best so far; a NaN is, but not than another one.
template <typename T>
EK_INLINE bool beats(T v, T best, bool largest, bool last) {
  if (is_nan(v)) return last || !is_nan(best);
  if (largest) return v > best || (last && v == best);
  return v < best || (last && v == best);
}
template <typename T>
EK_INLINE void extreme_places(const T* x, ColumnShape s, bool largest, bool last, int64_t* y) {
  constexpr size_t kTogether = 64;
  T best[kTogether];
  for (size_t first = 0; first < s.width; first += kTogether) {
    const size_t count = s.width - first < kTogether ? s.width - first : kTogether;
    for (size_t c = 0; c < count; ++c) best[c] = x[first + c], y[first + c] = 0;
    for (size_t r = 1; r < s.n; ++r) {
      const T* const row = x + r * s.step + first;
      for (size_t c = 0; c < count; ++c) {
        if (beats(row[c], best[c], largest, last)) best[c] = row[c], y[first + c] = static_cast<int64_t>(r);
      }
    }
  }
}
/// Of one dense row: its extreme by vectors, and then where that is.
EK_INLINE int64_t extreme_place(const float* x, size_t n, bool largest, bool last) {
  float best;
  largest ? reduce_few<Largest, 1>(x, n, &best) : reduce_few<Smallest, 1>(x, n, &best);
  const auto is_best = [&](size_t i) EK_LAMBDA { return x[i] == best || (is_nan(x[i]) && is_nan(best)); };
  size_t i = last ? n - 1 : 0;
  while (!is_best(i)) last ? --i : ++i;
  return static_cast<int64_t>(i);
}
void arg_extreme(const float* x, ColumnShape s, bool largest, bool last, int64_t* y) {
  if (s.width == 1 && s.step == 1) {
    *y = extreme_place(x, s.n, largest, last);
  } else {
    extreme_places(x, s, largest, last, y);
  }
}
void arg_extreme_i64(const int64_t* x, ColumnShape s, bool largest, bool last, int64_t* y) {
  extreme_places(x, s, largest, last, y);
}

}  // namespace
}  // namespace ek
