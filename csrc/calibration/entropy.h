// The clipping threshold of least relative entropy, as TensorRT defines it (S7310, GTC 2017), in prefix-sum form; and
// the same of a window with two ends.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ek {

struct EntropyResult {
  size_t num_kept;    // bins that stay: the threshold lies at (num_kept + 0.5) bins, or at the end of the last bin
  double divergence;  // KL(P || Q) at num_kept, in nats
};

/// Two divergences this close are equal; the larger threshold is taken.
inline constexpr double kEntropyTie = 1e-9;
/// At most one value in so many may be clipped.
inline constexpr uint64_t kMostClippedPart = 20;

/// Searches every num_kept in [num_levels, num_bins] over the counts of |x|.
/// Needs 1 <= num_levels <= num_bins and a total below 2^63.
EntropyResult entropy_search(const uint64_t* counts, size_t num_bins, size_t num_levels);

/// Bins [first, last) that stay; what lies below lands in the first of them, what lies above in the last.
struct EntropyWindow {
  size_t first, last;
  double divergence;
};

/// KL(P || Q) of a window in nats; infinite where what is clipped has nothing beside it.
/// Needs 2 <= num_levels <= last - first.
double entropy_of(const uint64_t* counts, size_t num_bins, size_t first, size_t last, size_t num_levels);

/// A window with `zero` in it whose divergence no move of one end lowers, the widest of equal ones: the ends are
/// searched in turn, from all bins on. Needs 2 <= num_levels <= num_bins, zero < num_bins and a total below 2^63.
EntropyWindow entropy_window(const uint64_t* counts, size_t num_bins, size_t zero, size_t num_levels);

}  // namespace ek
