// Sampler: from logits to a token. One definition in double, so a seed gives the same text on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace ek {

struct Sampling {
  double temperature = 0.0;  // 0: the largest logit, the first of equals
  size_t top_k = 0;          // keep so many of the largest; 0: all
  double top_p = 1.0;        // keep the fewest of the largest whose probabilities reach it
};

class Sampler {
 public:
  Sampler(size_t vocab, uint64_t seed) : candidates_(vocab), state_(seed) {}

  /// A token by exp(logit / temperature) among those kept; every call takes the seed's next number, unless temperature
  /// is 0. -1: no logit is a number.
  int32_t draw(const float* logits, const Sampling& sampling);

 private:
  struct Candidate {
    double weight;
    int32_t token;
  };
  double next_unit();

  std::vector<Candidate> candidates_;
  uint64_t state_;
};

/// e^x for x <= 0 within 2 units in the last place; 0 below -700. No libm.
double exp_of_negative(double x);

}  // namespace ek
