// Rotary positions: cosines and sines of position * angle, the same bits on every machine.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ek {

/// cos and sin of `phase` / 2^64 of a turn, each within 2^-52: polynomials in double, no libm.
void cos_sin_of_phase(uint64_t phase, double* cosine, double* sine);

/// cosines[i], sines[i] = those of position * phases[i], times `magnitude`, rounded to float. Multiplication modulo
/// 2^64 takes whole turns away exactly, so a position past 2^31 is as good as the first one.
void rope_row(const uint64_t* phases, size_t half, int64_t position, float magnitude, float* cosines, float* sines);

}  // namespace ek
