// Histogram: how often each value was seen, keyed on the top 16 bits of its float32.
//
// Key        sign, exponent and 7 mantissa bits: 128 keys an octave, so a value is known to 1 part in 128 or better,
//            at any magnitude and without a range to choose, to grow, or to get wrong.
// Exact      counts are integers, minimum and maximum are kept beside them: merging is addition, and the order and the
//            grouping of the data cannot change a bit.
// Memory     counts lie in pages of one octave and one sign, made when first used: about 40 KiB for an activation.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace ek {

/// `count` values spread evenly over [lo, hi]; lo == hi is one value.
struct Atom {
  double lo, hi;
  uint64_t count;
};

class Histogram {
 public:
  static constexpr size_t kNumKeys = 65536;

  /// Counts n values. NaN and infinities are counted apart and change nothing else.
  void update(const float* x, size_t n);
  void merge(const Histogram& other);

  /// Finite values.
  uint64_t count() const { return count_; }
  /// Exact zeros, of either sign.
  uint64_t num_zero() const { return num_zero_; }
  uint64_t num_nan() const { return num_nan_; }
  uint64_t num_inf() const { return num_inf_; }
  /// Meaningful when count() > 0; a zero is +0.
  float min() const;
  float max() const;

  uint64_t at(size_t key) const;

  /// What was counted, as disjoint intervals in rising order, cut to [min, max]. With `magnitude`, of |x|.
  std::vector<Atom> atoms(bool magnitude) const;

  /// The saved form: counts of all keys in `dense` (kNumKeys), the rest as read by the getters above.
  struct Totals {
    uint64_t num_zero, num_nan, num_inf;
    float min, max;
  };
  /// False when the parts contradict each other; the histogram is then unchanged.
  bool restore(const uint64_t* dense, const Totals& totals);

  bool operator==(const Histogram& other) const;

 private:
  static constexpr size_t kPageKeys = 128;
  using Page = std::array<uint64_t, kPageKeys>;

  uint64_t& slot(size_t key);
  void widen(int32_t lowest, int32_t highest);
  void count_finite(const float* x, size_t n, uint32_t* scratch);
  void count_any(const float* x, size_t n);
  void fold(uint32_t* scratch);

  std::array<std::unique_ptr<Page>, kNumKeys / kPageKeys> pages_;
  uint64_t count_ = 0, num_zero_ = 0, num_nan_ = 0, num_inf_ = 0;
  // Bit patterns whose order as int32 is the order of the floats, -0 taken as +0; empty while lowest_ > highest_. No
  // float is compared or added here: a caller's flush-to-zero must not change a subnormal.
  int32_t lowest_ = INT32_MAX, highest_ = INT32_MIN;
};

/// The value below which the fraction q of the atoms' mass lies, 0 <= q <= 1.
double quantile(const std::vector<Atom>& atoms, double q);

/// The fraction of the atoms' mass that lies outside [lo, hi].
double fraction_outside(const std::vector<Atom>& atoms, double lo, double hi);

/// `bins` equal bins over [lo, hi], which holds every atom. An atom's count is spread over the bins it covers in whole
/// numbers: the running total at each bin edge is rounded, so nothing is lost and nothing depends on order.
std::vector<uint64_t> linear_histogram(const std::vector<Atom>& atoms, double lo, double hi, size_t bins);

}  // namespace ek
