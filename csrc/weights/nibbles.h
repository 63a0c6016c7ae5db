// Codes of 8 bits that a file has as 4: lines of 64 codes, as packed weights are made of, in 32 bytes. Byte i of them
// has code i in its low half and code i + 32 in its high half, so that both halves of a line are read and written in
// order.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ek {

inline constexpr size_t kLineOfCodes = 64, kLineOfNibbles = kLineOfCodes / 2;

/// What each line of codes, in [-8, 7], was before it was stored.
void widen_nibbles(const uint8_t* nibbles, size_t lines, uint8_t* codes);

}  // namespace ek
