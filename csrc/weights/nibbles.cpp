#include "weights/nibbles.h"

namespace ek {

void widen_nibbles(const uint8_t* nibbles, size_t lines, uint8_t* codes) {
  const auto code = [](uint8_t nibble) { return static_cast<uint8_t>((nibble ^ 8) - 8); };
  for (size_t line = 0; line < lines; ++line, nibbles += kLineOfNibbles, codes += kLineOfCodes) {
    for (size_t i = 0; i < kLineOfNibbles; ++i) {
      codes[i] = code(nibbles[i] & 15);
      codes[i + kLineOfNibbles] = code(nibbles[i] >> 4);
    }
  }
}

}  // namespace ek
