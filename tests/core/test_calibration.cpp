// Histograms and threshold searches against their definitions, on data that needs no library to be the same everywhere.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "calibration/entropy.h"
#include "calibration/error_search.h"
#include "calibration/histogram.h"

namespace {

/// Every bit pattern may come up: NaN, infinities, zeros and subnormals too.
std::vector<float> any_floats(size_t n) {
  std::mt19937 random(11);
  std::vector<float> x(n);
  for (float& v : x) {
    const uint32_t bits = random() % 8 == 0 ? (random() & 0x80000000u) : static_cast<uint32_t>(random());
    std::memcpy(&v, &bits, sizeof v);
  }
  return x;
}

/// A bell: sums of twelve uniforms, exact in float.
std::vector<float> bell(size_t n) {
  std::mt19937 random(12);
  std::vector<float> x(n);
  for (float& v : x) {
    for (int i = 0; i < 12; ++i) v += static_cast<float>(random() >> 12) * 0x1p-20f;
    v -= 6.0f;
  }
  return x;
}

double naive_divergence(const std::vector<uint64_t>& h, size_t kept, size_t levels) {
  std::vector<double> p(h.begin(), h.begin() + static_cast<ptrdiff_t>(kept)), q(kept, 0.0);
  for (size_t i = kept; i < h.size(); ++i) p[kept - 1] += static_cast<double>(h[i]);
  double total_p = 0, total_q = 0, sum = 0;
  for (size_t g = 0; g < levels; ++g) {
    double mass = 0, present = 0;
    for (size_t i = g * kept / levels; i < (g + 1) * kept / levels; ++i) {
      mass += static_cast<double>(h[i]);
      present += p[i] > 0;
    }
    for (size_t i = g * kept / levels; i < (g + 1) * kept / levels; ++i) q[i] = p[i] > 0 ? mass / present : 0.0;
    total_q += mass;
  }
  for (const double v : p) total_p += v;
  for (size_t i = 0; i < kept; ++i) {
    if (p[i] == 0) continue;
    if (q[i] == 0) return std::numeric_limits<double>::infinity();
    sum += p[i] / total_p * std::log(p[i] / total_p / (q[i] / total_q));
  }
  return sum;
}

}  // namespace

TEST_CASE("a histogram is the same for every split") {
  const std::vector<float> x = any_floats(200'003);
  ek::Histogram whole, parts, merged;
  whole.update(x.data(), x.size());
  for (size_t start = 0; start < x.size(); start += 9973) {
    const size_t size = std::min<size_t>(9973, x.size() - start);
    ek::Histogram part;
    part.update(x.data() + start, size);
    parts.update(x.data() + start, size);
    merged.merge(part);
  }
  CHECK(whole == parts);
  CHECK(whole == merged);
  CHECK(whole.num_nan() > 0);
  CHECK(whole.count() + whole.num_nan() + whole.num_inf() == x.size());

  std::vector<uint64_t> dense(ek::Histogram::kNumKeys);
  for (size_t key = 0; key < dense.size(); ++key) dense[key] = whole.at(key);
  ek::Histogram restored;
  CHECK(restored.restore(dense.data(), {whole.num_zero(), whole.num_nan(), whole.num_inf(), whole.min(), whole.max()}));
  CHECK(restored == whole);
  CHECK_FALSE(restored.restore(dense.data(), {0, 0, 0, -1.0f, 1.0f}));
}

TEST_CASE("a linear histogram keeps every count and stays inside the data") {
  for (const std::vector<float>& x : {any_floats(50'000), bell(50'000), std::vector<float>(10, 3.0f)}) {
    ek::Histogram h;
    h.update(x.data(), x.size());
    for (const bool magnitude : {false, true}) {
      const std::vector<ek::Atom> atoms = h.atoms(magnitude);
      const double lo = magnitude ? 0.0 : h.min(), hi = std::max<double>(-h.min(), h.max());
      for (const size_t bins : {size_t{1}, size_t{3}, size_t{1000}}) {
        uint64_t total = 0;
        for (const uint64_t n : ek::linear_histogram(atoms, lo, magnitude ? hi : h.max(), bins)) total += n;
        CHECK(total == h.count());
      }
      CHECK(ek::quantile(atoms, 1.0) == (magnitude ? hi : h.max()));
      CHECK(ek::fraction_outside(atoms, lo, hi) == 0.0);
    }
  }
}

TEST_CASE("the entropy search equals the definition") {
  const std::vector<float> x = bell(100'000);
  ek::Histogram h;
  h.update(x.data(), x.size());
  const double absmax = std::max(-h.min(), h.max());
  const std::vector<uint64_t> counts = ek::linear_histogram(h.atoms(true), 0.0, absmax, 300);
  for (const size_t levels : {size_t{1}, size_t{16}, size_t{127}, size_t{300}}) {
    const ek::EntropyResult found = ek::entropy_search(counts.data(), counts.size(), levels);
    // More than one value in twenty clipped is no candidate, and of equal ones the one that clips least is taken.
    const auto divergence = [&](size_t kept) {
      const uint64_t clipped =
          std::accumulate(counts.begin() + static_cast<ptrdiff_t>(kept), counts.end(), uint64_t{0});
      return clipped * 20 > x.size() ? std::numeric_limits<double>::infinity() : naive_divergence(counts, kept, levels);
    };
    double least = std::numeric_limits<double>::infinity();
    for (size_t kept = levels; kept <= counts.size(); ++kept) least = std::min(least, divergence(kept));
    size_t last = counts.size();
    while (divergence(last) > least + ek::kEntropyTie) --last;
    CHECK(found.num_kept == last);
    CHECK(std::fabs(found.divergence - least) < ek::kEntropyTie + 1e-12);
  }
}

TEST_CASE("no move of one end betters a window, and with one end fixed it is the search of thresholds") {
  const std::vector<float> x = bell(100'000);
  ek::Histogram h;
  h.update(x.data(), x.size());
  const std::vector<uint64_t> counts = ek::linear_histogram(h.atoms(false), h.min(), h.max(), 200);
  const size_t bins = counts.size(), zero = 90, levels = 16;
  const auto [first, last, found] = ek::entropy_window(counts.data(), bins, zero, levels);
  CHECK(first <= zero);
  CHECK(last > zero);
  CHECK(found == ek::entropy_of(counts.data(), bins, first, last, levels));
  const auto clipped = [&](size_t a, size_t b) {
    const auto at = counts.begin();
    return std::accumulate(at, at + static_cast<ptrdiff_t>(a), uint64_t{0}) +
           std::accumulate(at + static_cast<ptrdiff_t>(b), counts.end(), uint64_t{0});
  };
  for (size_t other = 0; other <= bins; ++other) {
    const bool low = other <= zero && other + levels <= last && clipped(other, last) * 20 <= x.size();
    const bool high = other > zero && first + levels <= other && clipped(first, other) * 20 <= x.size();
    if (low) CHECK(ek::entropy_of(counts.data(), bins, other, last, levels) >= found - 2 * ek::kEntropyTie);
    if (high) CHECK(ek::entropy_of(counts.data(), bins, first, other, levels) >= found - 2 * ek::kEntropyTie);
  }
  const ek::EntropyResult one_sided = ek::entropy_search(counts.data(), bins, levels);
  CHECK(one_sided.divergence == ek::entropy_of(counts.data(), bins, 0, one_sided.num_kept, levels));
}

TEST_CASE("the error search beats a coarse one") {
  const std::vector<float> x = bell(100'000);
  ek::Histogram h;
  h.update(x.data(), x.size());
  const std::vector<ek::Atom> atoms = h.atoms(false);
  for (const double exponent : {2.0, 2.4}) {
    const double t = ek::error_threshold(atoms, 128, exponent);
    const double found = ek::quantization_error(atoms, t / 127, -128, 127, exponent);
    for (double other = 0.5; other < 6; other += 0.5) {
      CHECK(found <= ek::quantization_error(atoms, other / 127, -128, 127, exponent));
    }
    const auto [lo, hi] = ek::error_range(atoms, 256, exponent);
    CHECK(lo < 0);
    CHECK(hi > 0);
  }
  CHECK(ek::error_range({}, 256, 2.0).hi == 0.0);
}
