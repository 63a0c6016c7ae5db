// From float32 weights to 4-bit ones with a scale per group: at load, so that the least error is worth some time.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ek {

/// (n, k) weights, dense; q in [-8, 7], (n, k) dense; scale (n, ceil(k / group)), positive. Of several scales for a
/// group the one with the least squared error, after it has been fitted to its codes.
void quantize_groups(const float* w, size_t n, size_t k, size_t group, int threads, int8_t* q, float* scale);

}  // namespace ek
