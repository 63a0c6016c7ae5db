#include "decoder/sampler.h"

#include <algorithm>
#include <cmath>

namespace ek {

double exp_of_negative(double x) {
  if (!(x >= -700.0)) return 0.0;
  constexpr double kLn2High = 0x1.62e42fee00000p-1, kLn2Low = 0x1.a39ef35793c76p-33;
  const double n = std::nearbyint(x * 0x1.71547652b82fep+0);
  const double r = (x - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2
  double value = 1.0;
  for (double term = 14.0; term >= 1.0; term -= 1.0) value = 1.0 + r / term * value;
  return std::ldexp(value, static_cast<int>(n));
}

double Sampler::next_unit() {
  // splitmix64 (Steele, Lea, Flood 2014): the state walks all of 2^64, a mixer makes it look random.
  uint64_t z = state_ += 0x9E3779B97F4A7C15u;
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
  z = (z ^ z >> 27) * 0x94D049BB133111EBu;
  return static_cast<double>((z ^ z >> 31) >> 11) * 0x1p-53;
}

int32_t Sampler::draw(const float* logits, const Sampling& sampling) {
  const size_t vocab = candidates_.size();
  int32_t best = -1;
  for (size_t i = 0; i < vocab; ++i) {
    if (logits[i] == logits[i] && (best < 0 || logits[i] > logits[best])) best = static_cast<int32_t>(i);
  }
  if (sampling.temperature <= 0 || best < 0) return best;
  const double unit = next_unit(), most = logits[best];
  if (std::isinf(most)) return best;

  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.weight > b.weight || (a.weight == b.weight && a.token < b.token);
  };
  const auto begin = candidates_.begin();
  size_t count = 0;
  double total = 0;
  for (size_t i = 0; i < vocab; ++i) {
    const double weight = exp_of_negative((logits[i] - most) / sampling.temperature);
    if (weight > 0) candidates_[count++] = {weight, static_cast<int32_t>(i)};
    total += weight;
  }
  if (sampling.top_k > 0 && sampling.top_k < count) {
    const auto end = begin + static_cast<ptrdiff_t>(sampling.top_k);
    std::nth_element(begin, end, begin + static_cast<ptrdiff_t>(count), before);
    count = sampling.top_k;
    std::sort(begin, end, before);
    total = 0;
    for (size_t i = 0; i < count; ++i) total += candidates_[i].weight;
  }
  if (sampling.top_p < 1.0) {
    // What is below this cannot be among the first that reach top_p: even all of it together is less than 1 - top_p.
    const double least = (1.0 - sampling.top_p) * total / static_cast<double>(count);
    const auto kept = std::partition(begin, begin + static_cast<ptrdiff_t>(count),
                                     [&](const Candidate& c) { return c.weight >= least; });
    std::sort(begin, kept, before);
    const size_t most_kept = static_cast<size_t>(kept - begin);
    double sum = 0;
    for (count = 0; count < most_kept && (count == 0 || sum < sampling.top_p * total); ++count) {
      sum += candidates_[count].weight;
    }
    total = sum;
  }
  double left = unit * total;
  for (size_t i = 0; i < count; ++i) {
    left -= candidates_[i].weight;
    if (left < 0) return candidates_[i].token;
  }
  return candidates_[count == 0 ? 0 : count - 1].token;
}

}  // namespace ek
