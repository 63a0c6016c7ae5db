// Windows of a pooling and neighbors of a resizing, float32, channels (or what lies behind the axis) side by side.
//
// Method     lanes are channels, so that nothing is reduced across lanes; four strips at once hide the latency of the
//            sums. A resizing whose rows are shorter than a vector takes its lanes from a table of places.
// Order      as kernels/sampling.h says, in every lane: the same bits on every ISA.
// NaN        a sum that meets one is one; a maximum passes over it. Of zeros of both signs, a maximum is the first.
#pragma once

#include EK_SIMD_HEADER
#include "kernels/epilogue.h"
#include "kernels/functions.inl"
#include "kernels/rare_functions.inl"
#include "kernels/sampling.h"

namespace ek {
namespace {

/// body(strips, channel): whole strips of 16 channels from `channel` on, four at a time while there are; the last one,
/// which may be shorter, by itself.
template <typename Body>
EK_INLINE void by_strips(size_t channels, Body&& body) {
  size_t c = 0;
  for (; c + 4 * kStrip <= channels; c += 4 * kStrip) body(Int<4>{}, c);
  for (; c < channels; c += kStrip) body(Int<1>{}, c);
}

template <int S>
EK_INLINE void load_strips(const float* x, size_t n, F32 (&to)[S]) {
  if constexpr (S == 1) {
    to[0] = load_f32_n(x, n);
  } else {
    unroll<S>([&](auto s) EK_LAMBDA { to[s.value] = load_f32(x + s.value * kStrip); });
  }
}

template <int S>
EK_INLINE void store_strips(float* y, size_t n, const F32 (&from)[S]) {
  if constexpr (S == 1) {
    store_f32_n(y, from[0], n);
  } else {
    unroll<S>([&](auto s) EK_LAMBDA { store_f32(y + s.value * kStrip, from[s.value]); });
  }
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

/// What each row of channels adds, along the last axis and then of all lines; finish(the sums) is stored.
template <typename Term, typename Finish>
EK_INLINE void sum_box(const PoolBox& box, size_t channels, float* y, Term&& term, Finish&& finish) {
  by_strips(channels, [&](auto strips, size_t c) EK_LAMBDA {
    constexpr int S = decltype(strips)::value;
    F32 total[S], part[S];
    fill_strips<S>(0.0f, total);
    fill_strips<S>(0.0f, part);
    walk_box<S>(
        box, box.x + c, channels - c,
        [&](const F32(&v)[S]) EK_LAMBDA {
          unroll<S>([&](auto s) EK_LAMBDA { part[s.value] = add_f32(part[s.value], term(v[s.value])); });
        },
        [&]() EK_LAMBDA {
          unroll<S>([&](auto s) EK_LAMBDA { total[s.value] = add_f32(total[s.value], part[s.value]); });
          fill_strips<S>(0.0f, part);
        });
    unroll<S>([&](auto s) EK_LAMBDA { total[s.value] = finish(total[s.value]); });
    store_strips<S>(y + c, channels - c, total);
  });
}

void sum_box_f32(const PoolBox& box, size_t channels, float divisor, float* y) {
  const F32 by = set1_f32(divisor);
  sum_box(
      box, channels, y, [](F32 v) EK_LAMBDA { return v; }, [&](F32 sum) EK_LAMBDA { return div_f32(sum, by); });
}

/// A lane at a time, once a result.
__attribute__((noinline)) F32 root_of(F32 sum, float exponent) {
  float lanes[kStrip];
  store_f32(lanes, sum);
  for (float& lane : lanes) lane = pow_lane(lane, exponent);
  return load_f32(lanes);
}

void norm_box_f32(const PoolBox& box, size_t channels, size_t p, float* y) {
  const float exponent = 1.0f / static_cast<float>(p);
  const auto term = [&](F32 v) EK_LAMBDA {
    const F32 size = size_f32(v);
    F32 power = size;
    for (size_t i = 1; i < p; ++i) power = mul_f32(power, size);
    return power;
  };
  sum_box(box, channels, y, term, [&](F32 sum) EK_LAMBDA {
    if (p == 1) return sum;
    return p == 2 ? sqrt_f32(sum) : root_of(sum, exponent);
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
