// From float32 weights to those of 4 or 2 bits with a scale per group: at load, so that the least error is worth some
// time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ek {

/// (n, k) weights, dense; q in [-8, 7], (n, k) dense; scale (n, ceil(k / group)), positive. Of several scales for a
/// group the one with the least squared error, after it has been fitted to its codes.
void quantize_groups(const float* w, size_t n, size_t k, size_t group, int threads, int8_t* q, float* scale);

/// The same with q in {-1, 0, 1}, and of all scales and codes those with the least squared error: the codes are the
/// signs of the m largest values, whose mean size is the scale, and every m is looked at.
void quantize_ternary(const float* w, size_t n, size_t k, size_t group, int threads, int8_t* q, float* scale);

}  // namespace ek
