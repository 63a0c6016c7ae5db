#include "decoder/quantize_groups.h"

#include <algorithm>
#include <cmath>

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

}  // namespace

void quantize_groups(const float* w, size_t n, size_t k, size_t group, int threads, int8_t* q, float* scale) {
  const size_t groups = ceil_div(k, group);
  parallel_for(ceil_div(n, kRowsPerTask), threads, [&](size_t task) {
    for (size_t row = task * kRowsPerTask; row < std::min(n, (task + 1) * kRowsPerTask); ++row) {
      for (size_t g = 0; g < groups; ++g) {
        const size_t first = g * group;
        quantize_group(w + row * k + first, std::min(group, k - first), q + row * k + first, scale + row * groups + g);
      }
    }
  });
}

}  // namespace ek
