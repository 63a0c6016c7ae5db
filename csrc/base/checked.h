// Arithmetic on sizes that come from files and users: it either fits or says that it does not.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ek {

/// True and `*out = a * b` when the product fits.
inline bool checked_mul(size_t a, size_t b, size_t* out) { return !__builtin_mul_overflow(a, b, out); }

/// True and `*out = a + b` when the sum fits.
inline bool checked_add(size_t a, size_t b, size_t* out) { return !__builtin_add_overflow(a, b, out); }

/// True when two ranges of memory share a byte.
inline bool overlap(const void* a, size_t a_bytes, const void* b, size_t b_bytes) {
  const auto x = reinterpret_cast<uintptr_t>(a), y = reinterpret_cast<uintptr_t>(b);
  return a_bytes != 0 && b_bytes != 0 && x < y + b_bytes && y < x + a_bytes;
}

constexpr size_t round_up(size_t value, size_t multiple) { return (value + multiple - 1) / multiple * multiple; }

constexpr size_t ceil_div(size_t value, size_t divisor) { return (value + divisor - 1) / divisor; }

}  // namespace ek
