#include "decoder/quantize_groups.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/checked.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kMaxGroup = 128;
constexpr size_t kRowsPerTask = 16;

struct Fit {
  double error;
  float scale;
};

/// Codes of x at a scale; then the scale that fits them best, and what is left.
Fit fit_codes(const float* x, size_t n, float scale, int8_t* q) {
  double product = 0, square = 0, energy = 0;
  for (size_t i = 0; i < n; ++i) {
    const float code = std::min(std::max(std::nearbyint(x[i] / scale), -8.0f), 7.0f);
    q[i] = static_cast<int8_t>(code);
    product += double{x[i]} * double{code};
    square += double{code} * double{code};
    energy += double{x[i]} * double{x[i]};
  }
  if (!(square > 0) || !(product > 0)) return {energy, scale};
  return {energy - product * product / square, static_cast<float>(product / square)};
}

void quantize_group(const float* x, size_t n, int8_t* q, float* scale) {
  float peak = 0;
  for (size_t i = 0; i < n; ++i) peak = std::max(peak, std::fabs(x[i]));
  *scale = 1.0f;
  std::fill(q, q + n, int8_t{0});
  if (!(peak / 9.0f > 0)) return;
  int8_t codes[kMaxGroup];
  double least = -1;
  // From a step that reaches the peak to one that cuts it off for the sake of the others.
  for (const float reach : {7.0f, 7.5f, 8.0f, 8.5f, 9.0f, 6.5f}) {
    const Fit fit = fit_codes(x, n, peak / reach, codes);
    if (least >= 0 && fit.error >= least) continue;
    least = fit.error;
    *scale = fit.scale;
    std::copy(codes, codes + n, q);
  }
}

/// The error of m values at their mean size is the energy less (their sum)^2 / m. Of equal sizes all are taken or none.
void quantize_ternary_group(const float* x, size_t n, int8_t* q, float* scale) {
  float size[kMaxGroup];
  for (size_t i = 0; i < n; ++i) size[i] = std::fabs(x[i]);
  std::sort(size, size + n, std::greater<>());
  double sum = 0, best = 0, mean = 1;
  float least = std::numeric_limits<float>::infinity();
  for (size_t m = 1; m <= n && size[m - 1] > 0; ++m) {
    sum += double{size[m - 1]};
    if (m < n && size[m] == size[m - 1]) continue;
    const double gain = sum * sum / static_cast<double>(m);
    if (!(gain > best)) continue;
    best = gain;
    mean = sum / static_cast<double>(m);
    least = size[m - 1];
  }
  *scale = static_cast<float>(mean);
  for (size_t i = 0; i < n; ++i) q[i] = static_cast<int8_t>(x[i] >= least ? 1 : x[i] <= -least ? -1 : 0);
}

template <typename Group>
void for_groups(size_t n, size_t k, size_t group, int threads, Group&& quantize) {
  const size_t groups = ceil_div(k, group);
  parallel_for(ceil_div(n, kRowsPerTask), threads, [&](size_t task) {
    for (size_t row = task * kRowsPerTask; row < std::min(n, (task + 1) * kRowsPerTask); ++row) {
      for (size_t g = 0; g < groups; ++g) {
        const size_t first = g * group;
        quantize(row * k + first, std::min(group, k - first), row * groups + g);
      }
    }
  });
}

}  // namespace

void quantize_groups(const float* w, size_t n, size_t k, size_t group, int threads, int8_t* q, float* scale) {
  for_groups(n, k, group, threads,
             [&](size_t at, size_t values, size_t g) { quantize_group(w + at, values, q + at, scale + g); });
}

void quantize_ternary(const float* w, size_t n, size_t k, size_t group, int threads, int8_t* q, float* scale) {
  for_groups(n, k, group, threads,
             [&](size_t at, size_t values, size_t g) { quantize_ternary_group(w + at, values, q + at, scale + g); });
}

}  // namespace ek
