// The clipping range of least mean |x - dequantize(quantize(x))|^p on a grid of evenly spaced levels.
#pragma once

#include <vector>

#include "calibration/histogram.h"

namespace ek {

struct Range {
  double lo, hi;
};

/// The mean |x - dequantize(quantize(x))|^exponent when the levels are scale * q for q in [first, last].
double quantization_error(const std::vector<Atom>& atoms, double scale, double first, double last, double exponent);

struct Powers {
  double signal, noise;
};

/// The mean square of the values, and of their error on the levels scale * [first, last].
Powers powers(const std::vector<Atom>& atoms, double scale, double first, double last);

/// T for the levels T / (num_levels - 1) * q: q in [0, num_levels) when the atoms are not negative, else q in
/// [-num_levels, num_levels).
double error_threshold(const std::vector<Atom>& atoms, int num_levels, double exponent);

/// (lo, hi) with lo <= 0 <= hi for num_levels levels a scale of (hi - lo) / (num_levels - 1) apart, one of them on
/// zero.
Range error_range(const std::vector<Atom>& atoms, int num_levels, double exponent);

}  // namespace ek
