// What one 8-bit activation byte means: the vector layer multiplies one of the two, and says which.
#pragma once

#include <stdint.h>

namespace ek {

enum class Sign : uint8_t { kU8, kS8 };

}  // namespace ek
