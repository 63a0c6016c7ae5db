// For each number of kept bins i: P is the first i bins with everything beyond added to bin i-1; Q is the first i bins
// without it, merged into L groups [g*i/L, (g+1)*i/L), each spread evenly over those of its bins that are not empty in
// P. Both are normalized; KL(P || Q) is compared.
//
// With the mass of all bins taken as 1, p the mass of a bin, s_g and n_g the mass and the non-empty bins of group g:
//   KL = sum_g [ sum_{j in g} p_j ln p_j - s_g ln(s_g / n_g) ] + ln(sum_g s_g) + what the clipped mass adds to bin i-1
// The bracket needs three prefix sums and is never negative (log-sum inequality), so a candidate is left as soon as its
// partial sum passes the best divergence seen: a search over 65536 bins costs little more than one over 2048.
#include "calibration/entropy.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace ek {
namespace {

double x_log_x(double x) { return x > 0 ? x * std::log(x) : 0.0; }

struct Prefix {
  std::vector<uint64_t> count;     // exact
  std::vector<uint32_t> nonempty;  // exact
  std::vector<double> p_log_p;     // Neumaier-compensated: rounding stays far below kEntropyTie at any length
  double total = 0;

  Prefix(const uint64_t* counts, size_t num_bins) : count(num_bins + 1), nonempty(num_bins + 1), p_log_p(num_bins + 1) {
    for (size_t i = 0; i < num_bins; ++i) {
      count[i + 1] = count[i] + counts[i];
      nonempty[i + 1] = nonempty[i] + (counts[i] > 0);
    }
    total = static_cast<double>(count[num_bins]);
    double sum = 0, lost = 0;
    for (size_t i = 0; i < num_bins; ++i) {
      const double term = x_log_x(static_cast<double>(counts[i]) / total), next = sum + term;
      lost += std::fabs(sum) >= std::fabs(term) ? (sum - next) + term : (term - next) + sum;
      sum = next;
      p_log_p[i + 1] = sum + lost;
    }
  }

  double mass(size_t from, size_t to) const { return static_cast<double>(count[to] - count[from]) / total; }
};

/// KL(P || Q) with `kept` bins; or something above `limit` as soon as it is known to be.
double divergence(const Prefix& prefix, const std::vector<double>& log_of, const uint64_t* counts, size_t num_bins,
                  size_t num_levels, size_t kept, double limit) {
  const double tail = prefix.mass(kept, num_bins), inside = prefix.mass(0, kept);
  const size_t last_begin = (num_levels - 1) * kept / num_levels;
  const double last_mass = prefix.mass(last_begin, kept);
  if (inside == 0 || (tail > 0 && last_mass == 0)) return std::numeric_limits<double>::infinity();

  // The last group and the logarithm of the kept mass first: with them in, only terms >= 0 remain.
  double sum = std::log(inside);
  if (last_mass > 0) {
    const double p = static_cast<double>(counts[kept - 1]) / prefix.total;
    const size_t n = prefix.nonempty[kept] - prefix.nonempty[last_begin] + (p == 0 && tail > 0 ? 1 : 0);
    const double before = prefix.p_log_p[kept] - prefix.p_log_p[last_begin];
    sum += before - x_log_x(p) + x_log_x(p + tail) - (last_mass + tail) * (std::log(last_mass) - log_of[n]);
  }
  size_t begin = 0;
  for (size_t g = 0; g + 1 < num_levels && sum <= limit; ++g) {
    const size_t end = (g + 1) * kept / num_levels;
    const size_t n = prefix.nonempty[end] - prefix.nonempty[begin];
    if (n > 1) {  // one bin stands for itself
      const double s = prefix.mass(begin, end);
      sum += prefix.p_log_p[end] - prefix.p_log_p[begin] - s * (std::log(s) - log_of[n]);
    }
    begin = end;
  }
  return sum;
}

}  // namespace

EntropyResult entropy_search(const uint64_t* counts, size_t num_bins, size_t num_levels) {
  const Prefix prefix(counts, num_bins);
  if (prefix.total == 0) return {num_bins, 0.0};
  std::vector<double> log_of(num_bins + 1, 0.0);
  for (size_t n = 1; n <= num_bins; ++n) log_of[n] = std::log(static_cast<double>(n));

  // What is clipped stays a tail: with fewer bins kept a candidate is none.
  size_t fewest = num_levels;
  const uint64_t most_clipped = prefix.count[num_bins] / kMostClippedPart;
  while (prefix.count[num_bins] - prefix.count[fewest] > most_clipped) ++fewest;

  // Some all over the range first: what they find is the limit at which most of the others are left early.
  std::vector<double> found(num_bins + 1, std::numeric_limits<double>::infinity());
  double best = std::numeric_limits<double>::infinity();
  const auto try_kept = [&](size_t kept) {
    const double limit = best + 2 * kEntropyTie;  // a candidate left early can be no tie of the final best
    const double d = divergence(prefix, log_of, counts, num_bins, num_levels, kept, limit);
    if (d > limit) return;
    found[kept] = d;
    best = std::min(best, d);
  };
  constexpr size_t kCoarse = 16;
  for (size_t less = 0; less <= num_bins - fewest; less += kCoarse) try_kept(num_bins - less);
  for (size_t less = 1; less <= num_bins - fewest; ++less) {
    if (less % kCoarse != 0) try_kept(num_bins - less);
  }
  for (size_t kept = num_bins; kept > fewest; --kept) {
    if (found[kept] <= best + kEntropyTie) return {kept, found[kept]};
  }
  return {fewest, found[fewest]};
}

}  // namespace ek
