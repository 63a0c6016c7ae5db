// The error is integrated, not sampled. In the top octave a histogram key is as wide as a quantization step, so one
// representative value a key would say more about where the representatives fall than about the data. With values even
// over the key's interval [a, b] the mean error of the key is (G(b) - G(a)) / (b - a), where G is the antiderivative of
// |x - nearest level|^p: closed form inside the grid and beyond its ends.
#include "calibration/error_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace ek {
namespace {

// Adding and subtracting it rounds to the nearest integer, halves to even, for |x| < 2^51, and vectorizes on every ISA.
constexpr double kRoundShift = 6755399441055744.0;  // 1.5 * 2^52

// Ranges are searched in octave eighths, from everything down to 2^-24 of it, and then eight times finer near the best.
constexpr int kStepsPerOctave = 8;
constexpr int kOctaves = 24;
constexpr int kFineSteps = 8;
constexpr double kFinePerOctave = 64;
constexpr int kMaxRounds = 4;

// Table of |r|^(p+1) / (p+1) for r in [0, 0.5] when p is not 2. Linear interpolation makes |r|^p constant within a
// cell, with the right mean: an error below 1e-3 of a typical |r|^p at its largest, which averages out.
constexpr int kTableCells = 4096;

class ErrorModel {
 public:
  ErrorModel(const std::vector<Atom>& atoms, double exponent) : p_(exponent) {
    for (const Atom& a : atoms) {
      total_ += static_cast<double>(a.count);
      unit_ = std::max({unit_, -a.lo, a.hi});
      if (a.lo == 0 && a.hi == 0) continue;  // zero is a level
      // A single value becomes an interval too narrow to matter.
      const double room = a.hi > a.lo ? 0.0 : std::fabs(a.lo) * 0x1p-20;
      lo_.push_back(a.lo - room);
      hi_.push_back(a.hi + room);
      weight_.push_back(static_cast<double>(a.count) / (hi_.back() - lo_.back()));
    }
    at_lo_.resize(lo_.size());
    at_hi_.resize(lo_.size());
    if (p_ != 2.0) {
      for (int i = 0; i <= kTableCells; ++i) table_.push_back(std::pow(0.5 * i / kTableCells, p_ + 1) / (p_ + 1));
    }
  }

  /// The largest magnitude; errors are given as fractions of it, so that no power can overflow or vanish.
  double unit() const { return unit_; }

  double operator()(double scale, double first, double last) {
    if (p_ == 2.0) {
      integrate_square(lo_, scale, first, last, &at_lo_);
      integrate_square(hi_, scale, first, last, &at_hi_);
    } else {
      integrate_power(lo_, scale, first, last, &at_lo_);
      integrate_power(hi_, scale, first, last, &at_hi_);
    }
    double sum = 0;
    for (size_t i = 0; i < lo_.size(); ++i) sum += weight_[i] * (at_hi_[i] - at_lo_[i]);
    // G is in steps^(p+1), the widths behind the weights in units of x.
    return total_ > 0 ? sum * scale / total_ * std::pow(scale / unit_, p_) : 0.0;
  }

 private:
  static void integrate_square(const std::vector<double>& x, double scale, double first, double last,
                               std::vector<double>* g) {
    const double* from = x.data();
    double* to = g->data();
    for (size_t i = 0; i < x.size(); ++i) {
      const double t = from[i] / scale;
      double inside = t < first ? first : t;
      inside = inside > last ? last : inside;
      const double level = (inside + kRoundShift) - kRoundShift, r = inside - level, beyond = t - inside;
      to[i] = level * (1.0 / 12) + (r * r * r + beyond * beyond * beyond) * (1.0 / 3);
    }
  }

  void integrate_power(const std::vector<double>& x, double scale, double first, double last,
                       std::vector<double>* g) const {
    const double whole_step = 2 * table_.back();
    for (size_t i = 0; i < x.size(); ++i) {
      const double t = x[i] / scale, inside = std::clamp(t, first, last);
      const double level = (inside + kRoundShift) - kRoundShift, r = inside - level, beyond = t - inside;
      const double position = std::fabs(r) * (2 * kTableCells);
      const auto cell = std::min(static_cast<size_t>(position), static_cast<size_t>(kTableCells - 1));
      const double part = table_[cell] + (position - static_cast<double>(cell)) * (table_[cell + 1] - table_[cell]);
      double sum = level * whole_step + std::copysign(part, r);
      if (beyond != 0) sum += std::copysign(std::pow(std::fabs(beyond), p_ + 1) / (p_ + 1), beyond);
      (*g)[i] = sum;
    }
  }

  double p_, total_ = 0, unit_ = 0;
  std::vector<double> lo_, hi_, weight_, at_lo_, at_hi_, table_;
};

double shrink(int steps) { return std::exp2(-static_cast<double>(steps) / kStepsPerOctave); }
double nudge(int steps) { return std::exp2(static_cast<double>(steps) / kFinePerOctave); }

/// Remembers the best range tried.
class Best {
 public:
  Best(const std::vector<Atom>& atoms, double exponent) : error_(atoms, exponent), exponent_(exponent) {}

  /// Tries levels scale * [first, last] for the range (lo, hi). False when no tighter range can beat the best: what is
  /// not rounding error is clipping error, and that only grows.
  bool consider(double lo, double hi, double scale, double first, double last) {
    const double e = error_(scale, first, last);
    if (e < least_) {
      least_ = e;
      lo_ = lo;
      hi_ = hi;
      moved_ = true;
    }
    return e - std::pow(0.5 * scale / error_.unit(), exponent_) <= least_;
  }

  double lo() const { return lo_; }
  double hi() const { return hi_; }
  /// Whether something better was found since the last call.
  bool moved() {
    const bool moved = moved_;
    moved_ = false;
    return moved;
  }

 private:
  ErrorModel error_;
  double exponent_, least_ = std::numeric_limits<double>::infinity(), lo_ = 0, hi_ = 0;
  bool moved_ = false;
};

/// Calls body(factor) with factors from 1 downwards until it returns false.
template <typename Body>
void sweep(Body body) {
  for (int k = 0; k <= kOctaves * kStepsPerOctave; ++k) {
    if (!body(shrink(k))) return;
  }
}

}  // namespace

double quantization_error(const std::vector<Atom>& atoms, double scale, double first, double last, double exponent) {
  ErrorModel error(atoms, exponent);
  return error.unit() > 0 ? error(scale, first, last) * std::pow(error.unit(), exponent) : 0.0;
}

Powers powers(const std::vector<Atom>& atoms, double scale, double first, double last) {
  ErrorModel error(atoms, 2.0);
  if (!(error.unit() > 0)) return {0, 0};
  // A step so wide that every value rounds to 0, and is an error of its own size.
  const double signal = error(error.unit() * 4096, 0, 1), noise = error(scale, first, last);
  return {signal * error.unit() * error.unit(), noise * error.unit() * error.unit()};
}

double error_threshold(const std::vector<Atom>& atoms, int num_levels, double exponent) {
  if (atoms.empty()) return 0;
  const bool negative = atoms.front().lo < 0;
  const double most = std::max(-atoms.front().lo, atoms.back().hi), last = num_levels - 1;
  if (!(most > 0)) return 0;
  Best best(atoms, exponent);
  const auto consider = [&](double t) { return best.consider(-t, t, t / last, negative ? -last - 1 : 0.0, last); };
  sweep([&](double factor) { return consider(most * factor); });
  const double centre = best.hi();
  for (int k = -kFineSteps; k <= kFineSteps; ++k) consider(std::min(most, centre * nudge(k)));
  return best.hi();
}

Range error_range(const std::vector<Atom>& atoms, int num_levels, double exponent) {
  if (atoms.empty()) return {0, 0};
  const double min = std::min(0.0, atoms.front().lo), max = std::max(0.0, atoms.back().hi);
  const double most = std::max(-min, max), last = num_levels - 1;
  if (!(most > 0)) return {0, 0};
  Best best(atoms, exponent);
  const auto consider = [&](double lo, double hi) {
    const double scale = (hi - lo) / last, zero_point = std::nearbyint(-lo / scale);
    return best.consider(lo, hi, scale, -zero_point, last - zero_point);
  };
  // Both ends together, then each with the other held, then the same in small steps, until nothing moves.
  sweep([&](double factor) { return consider(std::max(min, -most * factor), std::min(max, most * factor)); });
  for (int round = 0; min < 0 && max > 0 && best.moved() && round < kMaxRounds; ++round) {
    const double lo = best.lo();
    sweep([&](double factor) { return consider(lo, max * factor); });
    const double hi = best.hi();
    sweep([&](double factor) { return consider(min * factor, hi); });
  }
  for (int round = 0; round < kMaxRounds; ++round) {
    best.moved();
    const double lo = best.lo(), hi = best.hi();
    for (int k = -kFineSteps; max > 0 && k <= kFineSteps; ++k) consider(lo, std::min(max, hi * nudge(k)));
    const double new_hi = best.hi();
    for (int k = -kFineSteps; min < 0 && k <= kFineSteps; ++k) consider(std::max(min, lo * nudge(k)), new_hi);
    if (!best.moved()) break;
  }
  return {best.lo(), best.hi()};
}

}  // namespace ek
