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
#include <utility>
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

std::vector<double> logarithms(size_t most) {
  std::vector<double> log_of(most + 1, 0.0);
  for (size_t n = 1; n <= most; ++n) log_of[n] = std::log(static_cast<double>(n));
  return log_of;
}

/// What a group adds whose bin `end_bin` takes the clipped mass `tail`.
double group_with_tail(const Prefix& prefix, const std::vector<double>& log_of, const uint64_t* counts, size_t begin,
                       size_t end, size_t end_bin, double tail) {
  const double mass = prefix.mass(begin, end);
  if (mass == 0) return 0.0;
  const double p = static_cast<double>(counts[end_bin]) / prefix.total;
  const size_t n = prefix.nonempty[end] - prefix.nonempty[begin] + (p == 0 && tail > 0 ? 1 : 0);
  const double before = prefix.p_log_p[end] - prefix.p_log_p[begin];
  return before - x_log_x(p) + x_log_x(p + tail) - (mass + tail) * (std::log(mass) - log_of[n]);
}

/// KL(P || Q) with the bins [first, last) kept; or something above `limit` as soon as it is known to be.
double divergence(const Prefix& prefix, const std::vector<double>& log_of, const uint64_t* counts, size_t num_bins,
                  size_t num_levels, size_t first, size_t last, double limit) {
  const double below = prefix.mass(0, first), above = prefix.mass(last, num_bins), inside = prefix.mass(first, last);
  const size_t kept = last - first, last_begin = first + (num_levels - 1) * kept / num_levels;
  const size_t first_end = first + kept / num_levels;
  if (inside == 0 || (above > 0 && prefix.mass(last_begin, last) == 0) ||
      (below > 0 && prefix.mass(first, first_end) == 0)) {
    return std::numeric_limits<double>::infinity();
  }

  // The groups at the ends and the logarithm of the kept mass first: with them in, only terms >= 0 remain.
  double sum = std::log(inside);
  sum += group_with_tail(prefix, log_of, counts, last_begin, last, last - 1, above);
  if (below > 0) sum += group_with_tail(prefix, log_of, counts, first, first_end, first, below);
  size_t begin = below > 0 ? first_end : first;
  for (size_t g = below > 0 ? 1 : 0; g + 1 < num_levels && sum <= limit; ++g) {
    const size_t end = first + (g + 1) * kept / num_levels;
    const size_t n = prefix.nonempty[end] - prefix.nonempty[begin];
    if (n > 1) {  // one bin stands for itself
      const double s = prefix.mass(begin, end);
      sum += prefix.p_log_p[end] - prefix.p_log_p[begin] - s * (std::log(s) - log_of[n]);
    }
    begin = end;
  }
  return sum;
}

/// The best of `count` windows, of which the first is the widest and `divergence_of(less, limit)` the divergence; the
/// widest of equal ones.
template <typename DivergenceOf>
std::pair<size_t, double> best_of(size_t count, DivergenceOf divergence_of) {
  // Some all over the range first: what they find is the limit at which most of the others are left early.
  std::vector<double> found(count, std::numeric_limits<double>::infinity());
  double best = std::numeric_limits<double>::infinity();
  const auto try_one = [&](size_t less) {
    const double limit = best + 2 * kEntropyTie;  // a candidate left early can be no tie of the final best
    const double d = divergence_of(less, limit);
    if (d > limit) return;
    found[less] = d;
    best = std::min(best, d);
  };
  constexpr size_t kCoarse = 16;
  for (size_t less = 0; less < count; less += kCoarse) try_one(less);
  for (size_t less = 1; less < count; ++less) {
    if (less % kCoarse != 0) try_one(less);
  }
  for (size_t less = 0; less + 1 < count; ++less) {
    if (found[less] <= best + kEntropyTie) return {less, found[less]};
  }
  return {count - 1, found[count - 1]};
}

}  // namespace

EntropyResult entropy_search(const uint64_t* counts, size_t num_bins, size_t num_levels) {
  const Prefix prefix(counts, num_bins);
  if (prefix.total == 0) return {num_bins, 0.0};
  const std::vector<double> log_of = logarithms(num_bins);

  // What is clipped stays a tail: with fewer bins kept a candidate is none.
  size_t fewest = num_levels;
  const uint64_t most_clipped = prefix.count[num_bins] / kMostClippedPart;
  while (prefix.count[num_bins] - prefix.count[fewest] > most_clipped) ++fewest;

  const auto [less, found] = best_of(num_bins - fewest + 1, [&](size_t fewer, double limit) {
    return divergence(prefix, log_of, counts, num_bins, num_levels, 0, num_bins - fewer, limit);
  });
  return {num_bins - less, found};
}

double entropy_of(const uint64_t* counts, size_t num_bins, size_t first, size_t last, size_t num_levels) {
  const Prefix prefix(counts, num_bins);
  if (prefix.total == 0) return 0.0;
  const double never = std::numeric_limits<double>::infinity();
  return divergence(prefix, logarithms(num_bins), counts, num_bins, num_levels, first, last, never);
}

EntropyWindow entropy_window(const uint64_t* counts, size_t num_bins, size_t zero, size_t num_levels) {
  const Prefix prefix(counts, num_bins);
  if (prefix.total == 0) return {0, num_bins, 0.0};
  const std::vector<double> log_of = logarithms(num_bins);
  const uint64_t all = prefix.count[num_bins], most_clipped = all / kMostClippedPart;
  const auto clipped = [&](size_t first, size_t last) { return prefix.count[first] + all - prefix.count[last]; };

  EntropyWindow best{0, num_bins, std::numeric_limits<double>::infinity()};
  for (bool moved = true; moved;) {
    size_t least = std::max(best.first + num_levels, zero + 1);
    while (clipped(best.first, least) > most_clipped) ++least;
    const auto [fewer_above, above] = best_of(num_bins - least + 1, [&](size_t less, double limit) {
      return divergence(prefix, log_of, counts, num_bins, num_levels, best.first, num_bins - less, limit);
    });
    const size_t last = num_bins - fewer_above;
    size_t most = std::min(last - num_levels, zero);
    while (clipped(most, last) > most_clipped) --most;
    const auto [fewer_below, below] = best_of(most + 1, [&](size_t less, double limit) {
      return divergence(prefix, log_of, counts, num_bins, num_levels, less, last, limit);
    });
    moved = below < best.divergence - kEntropyTie;  // else it could go to and fro between equal ones
    if (moved) best = {fewer_below, last, below};
  }
  return best;
}

}  // namespace ek
