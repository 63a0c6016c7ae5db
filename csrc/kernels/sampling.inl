// Windows of a pooling and neighbors of a resizing, float32, channels (or what lies behind the axis) side by side.
//
// Method     lanes are channels, so that nothing is reduced across lanes; four strips at once hide the latency of the
//            sums. A resizing whose rows are shorter than a vector takes its lanes from a table of places.
// Order      as kernels/sampling.h says, in every lane: the same bits on every ISA.
// NaN        a sum that meets one is one; a maximum passes over it. Of zeros of both signs, a maximum is the first.
#pragma once

#include EK_SIMD_HEADER
#include "kernels/epilogue.h"
#include "kernels/sampling.h"

namespace ek {
namespace {

/// body(strips, channel): strips of 16 channels from `channel` on, four at a time while there are.
template <typename Body>
EK_INLINE void by_strips(size_t channels, Body&& body) {
  size_t c = 0;
  for (; c + 3 * kStrip < channels; c += 4 * kStrip) body(Int<4>{}, c);
  for (; c < channels; c += kStrip) body(Int<1>{}, c);
}

template <int S>
EK_INLINE void load_strips(const float* x, size_t n, F32 (&to)[S]) {
  unroll<S>([&](auto s) EK_LAMBDA {
    constexpr size_t at = decltype(s)::value * kStrip;
    to[s.value] = load_f32_n(x + at, n - at);
  });
}

template <int S>
EK_INLINE void store_strips(float* y, size_t n, const F32 (&from)[S]) {
  unroll<S>([&](auto s) EK_LAMBDA {
    constexpr size_t at = decltype(s)::value * kStrip;
    store_f32_n(y + at, from[s.value], n - at);
  });
}

template <int S>
EK_INLINE void fill_strips(float value, F32 (&to)[S]) {
  unroll<S>([&](auto s) EK_LAMBDA { to[s.value] = set1_f32(value); });
}

/// The S strips from x on, each row of the box in turn.
template <int S, typename Row, typename Line>
EK_INLINE void walk_box(const PoolBox& box, const float* x, size_t n, Row&& row, Line&& line) {
  for (size_t i = 0; i < box.count[0]; ++i) {
    for (size_t j = 0; j < box.count[1]; ++j) {
      const float* from = x + i * box.step[0] + j * box.step[1];
      for (size_t k = 0; k < box.count[2]; ++k, from += box.step[2]) {
        F32 v[S];
        load_strips<S>(from, n, v);
        row(v);
      }
      line();
    }
  }
}

void max_box_f32(const PoolBox& box, size_t channels, float* y) {
  by_strips(channels, [&](auto strips, size_t c) EK_LAMBDA {
    constexpr int S = decltype(strips)::value;
    F32 best[S];
    fill_strips<S>(-__builtin_huge_valf(), best);
    walk_box<S>(
        box, box.x + c, channels - c,
        [&](const F32(&v)[S])
            EK_LAMBDA { unroll<S>([&](auto s) EK_LAMBDA { best[s.value] = max_f32(v[s.value], best[s.value]); }); },
        []() EK_LAMBDA {});
    store_strips<S>(y + c, channels - c, best);
  });
}

void sum_box_f32(const PoolBox& box, size_t channels, float divisor, float* y) {
  by_strips(channels, [&](auto strips, size_t c) EK_LAMBDA {
    constexpr int S = decltype(strips)::value;
    F32 total[S], part[S];
    fill_strips<S>(0.0f, total);
    fill_strips<S>(0.0f, part);
    walk_box<S>(
        box, box.x + c, channels - c,
        [&](const F32(&v)[S])
            EK_LAMBDA { unroll<S>([&](auto s) EK_LAMBDA { part[s.value] = add_f32(part[s.value], v[s.value]); }); },
        [&]() EK_LAMBDA {
          unroll<S>([&](auto s) EK_LAMBDA { total[s.value] = add_f32(total[s.value], part[s.value]); });
          fill_strips<S>(0.0f, part);
        });
    const F32 by = set1_f32(divisor);
    unroll<S>([&](auto s) EK_LAMBDA { total[s.value] = div_f32(total[s.value], by); });
    store_strips<S>(y + c, channels - c, total);
  });
}

void resample_row(const float* x, size_t n, const int32_t* index, const float* weight, size_t taps, float* y) {
  by_strips(n, [&](auto strips, size_t c) EK_LAMBDA {
    constexpr int S = decltype(strips)::value;
    F32 sum[S], v[S];
    fill_strips<S>(0.0f, sum);
    for (size_t t = 0; t < taps; ++t) {
      const F32 w = set1_f32(weight[t]);
      load_strips<S>(x + static_cast<size_t>(index[t]) * n + c, n - c, v);
      unroll<S>([&](auto s) EK_LAMBDA { sum[s.value] = fma_f32(w, v[s.value], sum[s.value]); });
    }
    store_strips<S>(y + c, n - c, sum);
  });
}

void resample_lanes(const float* x, size_t n, const int32_t* index, const float* weight, size_t taps, float* y) {
  for (size_t c = 0; c < n; c += kStrip) {
    const size_t lanes = n - c < kStrip ? n - c : kStrip;
    F32 sum = set1_f32(0.0f);
    for (size_t t = 0; t < taps; ++t) {
      float v[kStrip] = {};
      const int32_t* const at = index + t * n + c;
      for (size_t i = 0; i < lanes; ++i) v[i] = x[at[i]];
      sum = fma_f32(load_f32_n(weight + t * n + c, lanes), load_f32(v), sum);
    }
    store_f32_n(y + c, sum, lanes);
  }
}

}  // namespace
}  // namespace ek
