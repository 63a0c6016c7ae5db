// A few bytes: a copy where their number is not known (a loop, a call would cost more), and four at any address.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "simd/unroll.h"

namespace ek {
namespace {

EK_INLINE void copy_bytes(void* to, const void* from, size_t n) {
  uint8_t* t = static_cast<uint8_t*>(to);
  const uint8_t* f = static_cast<const uint8_t*>(from);
  for (size_t i = 0; i < n; ++i) t[i] = f[i];
}

EK_INLINE uint32_t load_u32(const uint8_t* p) {
  uint32_t x;
  __builtin_memcpy(&x, p, 4);
  return x;
}

}  // namespace
}  // namespace ek
