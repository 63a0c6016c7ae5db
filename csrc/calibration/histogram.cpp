#include "calibration/histogram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace ek {
namespace {

constexpr int32_t kMagnitudeBits = 0x7FFFFFFF;
constexpr uint32_t kNegativeZero = 0x80000000u;
constexpr uint32_t kInfinity = 0x7F800000u;
constexpr size_t kSignKey = 0x8000;
constexpr size_t kInfinityKey = kInfinity >> 16;

// Successive values often share a key; four counters a key keep one increment from waiting for the last one's store.
constexpr size_t kLanes = 4;
// Below this many values the direct way is faster than sweeping the scratch table afterwards.
constexpr size_t kScratchFrom = 65536;
// A block is read twice; 16 KiB are still in L1 the second time.
constexpr size_t kBlock = 4096;
// Scratch counters are 32-bit: fold before one can overflow.
constexpr size_t kFoldEvery = size_t{1} << 30;

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

/// Float bits to an int32 of the same order, and back (it is its own inverse).
constexpr int32_t ordered(uint32_t bits) {
  const auto i = static_cast<int32_t>(bits);
  return i ^ ((i >> 31) & kMagnitudeBits);
}

constexpr int32_t kHighestFinite = ordered(kInfinity - 1);
constexpr int32_t kLowestFinite = ordered((kInfinity - 1) | kNegativeZero);

float unordered(int32_t i) { return float_of(static_cast<uint32_t>(ordered(static_cast<uint32_t>(i)))); }

struct Scan {
  int32_t lowest, highest;
  uint32_t zeros, negative_zeros;
};

/// One vectorizable pass: extremes and zeros.
Scan scan(const float* x, size_t n) {
  int32_t lowest = INT32_MAX, highest = INT32_MIN;
  uint32_t zeros = 0, negative_zeros = 0;
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = bits_of(x[i]);
    const int32_t o = ordered(bits);
    lowest = o < lowest ? o : lowest;
    highest = o > highest ? o : highest;
    zeros += (bits & 0x7FFFFFFFu) == 0;
    negative_zeros += bits == kNegativeZero;
  }
  return {lowest, highest, zeros, negative_zeros};
}

double key_value(size_t key) { return float_of(static_cast<uint32_t>(key) << 16); }

}  // namespace

float Histogram::min() const { return unordered(lowest_); }
float Histogram::max() const { return unordered(highest_); }

void Histogram::widen(int32_t lowest, int32_t highest) {
  constexpr int32_t kOrderedNegativeZero = ordered(kNegativeZero);
  lowest_ = std::min(lowest_, lowest == kOrderedNegativeZero ? 0 : lowest);
  highest_ = std::max(highest_, highest == kOrderedNegativeZero ? 0 : highest);
}

uint64_t Histogram::at(size_t key) const {
  const auto& page = pages_[key / kPageKeys];
  return page ? (*page)[key % kPageKeys] : 0;
}

uint64_t& Histogram::slot(size_t key) {
  auto& page = pages_[key / kPageKeys];
  if (!page) page = std::make_unique<Page>();
  return (*page)[key % kPageKeys];
}

void Histogram::update(const float* x, size_t n) {
  thread_local std::unique_ptr<uint32_t[]> scratch;  // all zero between calls
  const bool use_scratch = n >= kScratchFrom;
  if (use_scratch && !scratch) scratch = std::make_unique<uint32_t[]>(kNumKeys * kLanes);
  size_t unfolded = 0;
  for (size_t start = 0; start < n; start += kBlock) {
    const float* block = x + start;
    const size_t size = std::min(kBlock, n - start);
    const Scan s = scan(block, size);
    if (s.lowest < kLowestFinite || s.highest > kHighestFinite) {
      count_any(block, size);
      continue;
    }
    widen(s.lowest, s.highest);
    count_ += size;
    num_zero_ += s.zeros;
    count_finite(block, size, use_scratch ? scratch.get() : nullptr);
    if (s.negative_zeros > 0) {  // -0 counts as +0
      slot(0) += s.negative_zeros;
      slot(kSignKey) -= s.negative_zeros;  // wraps for a moment when its increments still wait in the scratch table
    }
    unfolded += size;
    if (use_scratch && unfolded >= kFoldEvery) {
      fold(scratch.get());
      unfolded = 0;
    }
  }
  if (use_scratch) fold(scratch.get());
}

void Histogram::count_finite(const float* x, size_t n, uint32_t* scratch) {
  if (scratch == nullptr) {
    for (size_t i = 0; i < n; ++i) ++slot(bits_of(x[i]) >> 16);
    return;
  }
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) ++scratch[(bits_of(x[i + lane]) >> 16) * kLanes + lane];
  }
  for (; i < n; ++i) ++scratch[(bits_of(x[i]) >> 16) * kLanes];
}

void Histogram::count_any(const float* x, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    const uint32_t bits = bits_of(x[i]), magnitude = bits & ~kNegativeZero;
    if (magnitude > kInfinity) {
      ++num_nan_;
    } else if (magnitude == kInfinity) {
      ++num_inf_;
    } else {
      ++count_;
      num_zero_ += magnitude == 0;
      ++slot(magnitude == 0 ? 0 : bits >> 16);
      widen(ordered(bits), ordered(bits));
    }
  }
}

void Histogram::fold(uint32_t* scratch) {
  for (size_t p = 0; p < pages_.size(); ++p) {
    uint32_t* table = scratch + p * kPageKeys * kLanes;
    uint32_t used = 0;
    for (size_t i = 0; i < kPageKeys * kLanes; ++i) used |= table[i];
    if (used == 0) continue;
    for (size_t k = 0; k < kPageKeys; ++k) {
      uint64_t sum = 0;
      for (size_t lane = 0; lane < kLanes; ++lane) sum += table[k * kLanes + lane];
      slot(p * kPageKeys + k) += sum;
    }
    std::memset(table, 0, kPageKeys * kLanes * sizeof *table);
  }
}

void Histogram::merge(const Histogram& other) {
  for (size_t p = 0; p < pages_.size(); ++p) {
    if (!other.pages_[p]) continue;
    for (size_t k = 0; k < kPageKeys; ++k) slot(p * kPageKeys + k) += (*other.pages_[p])[k];
  }
  count_ += other.count_;
  num_zero_ += other.num_zero_;
  num_nan_ += other.num_nan_;
  num_inf_ += other.num_inf_;
  lowest_ = std::min(lowest_, other.lowest_);
  highest_ = std::max(highest_, other.highest_);
}

bool Histogram::restore(const uint64_t* dense, const Totals& totals) {
  uint64_t total = 0;
  size_t lowest_key = kNumKeys, highest_key = kNumKeys;  // in the order of the values
  for (size_t i = 0; i < kNumKeys; ++i) {
    const size_t key = i < kSignKey ? kNumKeys - 1 - i : i - kSignKey;
    if (dense[key] == 0) continue;
    if ((key & ~kSignKey) >= kInfinityKey) return false;
    if (dense[key] > (uint64_t{1} << 62) - total) return false;
    total += dense[key];
    if (lowest_key == kNumKeys) lowest_key = key;
    highest_key = key;
  }
  if (totals.num_zero > dense[0]) return false;
  Histogram h;
  if (total > 0) {
    if (!std::isfinite(totals.min) || !std::isfinite(totals.max) || totals.min > totals.max) return false;
    h.widen(ordered(bits_of(totals.min)), ordered(bits_of(totals.max)));
    if (bits_of(h.min()) >> 16 != lowest_key || bits_of(h.max()) >> 16 != highest_key) return false;
  }
  for (size_t key = 0; key < kNumKeys; ++key) {
    if (dense[key] > 0) h.slot(key) = dense[key];
  }
  h.count_ = total;
  h.num_zero_ = totals.num_zero;
  h.num_nan_ = totals.num_nan;
  h.num_inf_ = totals.num_inf;
  *this = std::move(h);
  return true;
}

bool Histogram::operator==(const Histogram& other) const {
  if (count_ != other.count_ || num_zero_ != other.num_zero_ || num_nan_ != other.num_nan_ ||
      num_inf_ != other.num_inf_ || lowest_ != other.lowest_ || highest_ != other.highest_) {
    return false;
  }
  for (size_t key = 0; key < kNumKeys; ++key) {
    if (at(key) != other.at(key)) return false;
  }
  return true;
}

std::vector<Atom> Histogram::atoms(bool magnitude) const {
  std::vector<Atom> out;
  if (count_ == 0) return out;
  const double lowest = min(), highest = max();
  const auto add = [&](double a, double b, uint64_t n, double from, double to) {
    if (n > 0) out.push_back({std::clamp(a, from, to), std::clamp(b, from, to), n});
  };
  const auto counted = [&](size_t page, size_t sign) { return pages_[page | sign / kPageKeys] != nullptr; };
  if (!magnitude) {
    for (size_t page = kInfinityKey / kPageKeys; page-- > 0;) {
      if (!counted(page, kSignKey)) continue;
      for (size_t key = (page + 1) * kPageKeys; key-- > page * kPageKeys;) {
        add(-key_value(key + 1), -key_value(key), at(key | kSignKey), lowest, highest);
      }
    }
  }
  const double least = !magnitude ? lowest : lowest > 0 ? lowest : highest < 0 ? -highest : 0.0;
  const double most = magnitude ? std::max(highest, -lowest) : highest;
  add(0.0, 0.0, num_zero_, least, most);
  for (size_t page = 0; page < kInfinityKey / kPageKeys; ++page) {
    if (!counted(page, 0) && !(magnitude && counted(page, kSignKey))) continue;
    for (size_t key = page * kPageKeys; key < (page + 1) * kPageKeys; ++key) {
      const uint64_t n = at(key) - (key == 0 ? num_zero_ : 0) + (magnitude ? at(key | kSignKey) : 0);
      add(key_value(key), key_value(key + 1), n, least, most);
    }
  }
  return out;
}

double quantile(const std::vector<Atom>& atoms, double q) {
  uint64_t total = 0;
  for (const Atom& a : atoms) total += a.count;
  const double target = q * static_cast<double>(total);
  uint64_t below = 0;
  for (const Atom& a : atoms) {
    if (static_cast<double>(below + a.count) >= target) {
      const double part = (target - static_cast<double>(below)) / static_cast<double>(a.count);
      return a.lo + std::clamp(part, 0.0, 1.0) * (a.hi - a.lo);
    }
    below += a.count;
  }
  return atoms.empty() ? std::numeric_limits<double>::quiet_NaN() : atoms.back().hi;
}

double fraction_outside(const std::vector<Atom>& atoms, double lo, double hi) {
  double outside = 0, total = 0;
  for (const Atom& a : atoms) {
    const double n = static_cast<double>(a.count);
    total += n;
    if (a.lo >= lo && a.hi <= hi) continue;
    const double width = a.hi - a.lo, inside = std::min(a.hi, hi) - std::max(a.lo, lo);
    outside += width > 0 ? n * (1.0 - std::max(inside, 0.0) / width) : n;
  }
  return total > 0 ? outside / total : 0.0;
}

std::vector<uint64_t> linear_histogram(const std::vector<Atom>& atoms, double lo, double hi, size_t bins) {
  std::vector<uint64_t> counts(bins, 0);
  const double num_bins = static_cast<double>(bins), span = hi - lo;
  const auto bin_of = [&](double x) {
    const double position = span > 0 ? (x - lo) / span * num_bins : 0.0;
    return std::min(bins - 1, static_cast<size_t>(std::max(position, 0.0)));
  };
  for (const Atom& a : atoms) {
    const size_t first = bin_of(a.lo), last = bin_of(a.hi);
    uint64_t placed = 0;
    for (size_t bin = first; bin < last; ++bin) {
      const double edge = lo + span * (static_cast<double>(bin + 1) / num_bins);
      const double part = std::clamp((edge - a.lo) / (a.hi - a.lo), 0.0, 1.0);
      const auto upto = static_cast<uint64_t>(static_cast<double>(a.count) * part + 0.5);
      const uint64_t now = std::clamp(upto, placed, a.count);
      counts[bin] += now - placed;
      placed = now;
    }
    counts[last] += a.count - placed;
  }
  return counts;
}

}  // namespace ek
