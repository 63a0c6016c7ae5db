#include "decoder/rope.h"

namespace ek {
namespace {

constexpr double kRadians = 0x1.921fb54442d18p-62;  // 2 pi / 2^64

/// 1 - z / (first (first + 1)) (1 - z / ((first + 2) (first + 3)) (...)): the series of cos (first = 1, 8 terms) and of
/// sin(x) / x (first = 2), z = x^2, |x| <= pi / 4. The ninth term is below 2^-58.
double alternating(double z, double first) {
  double value = 1.0;
  for (double n = first + 14.0; n >= first; n -= 2.0) value = 1.0 - z / (n * (n + 1.0)) * value;
  return value;
}

}  // namespace

void cos_sin_of_phase(uint64_t phase, double* cosine, double* sine) {
  const uint64_t quarter = (phase + (uint64_t{1} << 61)) >> 62;  // the nearest of the four axes
  const double x = static_cast<double>(static_cast<int64_t>(phase - (quarter << 62))) * kRadians;
  const double z = x * x, c = alternating(z, 1.0), s = x * alternating(z, 2.0);
  switch (quarter & 3) {
    case 0:
      *cosine = c, *sine = s;
      break;
    case 1:
      *cosine = -s, *sine = c;
      break;
    case 2:
      *cosine = -c, *sine = -s;
      break;
    default:
      *cosine = s, *sine = -c;
  }
}

void rope_row(const uint64_t* phases, size_t half, int64_t position, float magnitude, float* cosines, float* sines) {
  for (size_t i = 0; i < half; ++i) {
    double cosine = 0, sine = 0;
    cos_sin_of_phase(static_cast<uint64_t>(position) * phases[i], &cosine, &sine);
    cosines[i] = static_cast<float>(cosine * double{magnitude});
    sines[i] = static_cast<float>(sine * double{magnitude});
  }
}

}  // namespace ek
