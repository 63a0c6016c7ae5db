// memcpy for a few bytes whose number is not known: a loop, where a call would cost more.
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

}  // namespace
}  // namespace ek
