// Lanes<L>: L pieces of 16 bytes in one register, for kernels that move bytes. One piece on every ISA, more where
// registers are wider.
#pragma once

#include <stddef.h>
#include <stdint.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "simd/unroll.h"

// Bytes of a and b by number. Clang has not the one built-in, GCC before 12 not the other.
#ifdef __clang__
#define EK_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define EK_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Bytes{__VA_ARGS__})
#endif

namespace ek {
namespace {

/// load() takes the pieces from `step` bytes apart; low() and high() take bytes of a and b in turn, piece by piece:
/// those of the first halves, those of the second ones.
template <int L>
struct Lanes;

template <>
struct Lanes<1> {
  using Bytes = uint8_t __attribute__((vector_size(16)));
  Bytes v;

  static EK_INLINE Lanes load(const uint8_t* p, size_t) {
    Lanes x;
    __builtin_memcpy(&x.v, p, sizeof x.v);
    return x;
  }
  static EK_INLINE Lanes low(Lanes a, Lanes b) {
    return {EK_SHUFFLE(a.v, b.v, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)};
  }
  static EK_INLINE Lanes high(Lanes a, Lanes b) {
    return {EK_SHUFFLE(a.v, b.v, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)};
  }
  EK_INLINE void store(uint8_t* p) const { __builtin_memcpy(p, &v, sizeof v); }
};

constexpr int kMostLanes =
#if defined(__AVX512BW__)
    4;
#elif defined(__AVX2__)
    2;
#else
    1;
#endif

#ifdef __AVX2__
EK_INLINE __m128i load_piece(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

template <>
struct Lanes<2> {
  __m256i v;

  static EK_INLINE Lanes load(const uint8_t* p, size_t step) {
    return {_mm256_inserti128_si256(_mm256_castsi128_si256(load_piece(p)), load_piece(p + step), 1)};
  }
  static EK_INLINE Lanes low(Lanes a, Lanes b) { return {_mm256_unpacklo_epi8(a.v, b.v)}; }
  static EK_INLINE Lanes high(Lanes a, Lanes b) { return {_mm256_unpackhi_epi8(a.v, b.v)}; }
  EK_INLINE void store(uint8_t* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
};
#endif

#ifdef __AVX512BW__
template <>
struct Lanes<4> {
  __m512i v;

  static EK_INLINE Lanes load(const uint8_t* p, size_t step) {
    const __m512i two = _mm512_castsi256_si512(Lanes<2>::load(p, step).v);
    const __m512i three = _mm512_inserti32x4(two, load_piece(p + 2 * step), 2);
    return {_mm512_inserti32x4(three, load_piece(p + 3 * step), 3)};
  }
  static EK_INLINE Lanes low(Lanes a, Lanes b) { return {_mm512_unpacklo_epi8(a.v, b.v)}; }
  static EK_INLINE Lanes high(Lanes a, Lanes b) { return {_mm512_unpackhi_epi8(a.v, b.v)}; }
  EK_INLINE void store(uint8_t* p) const { _mm512_storeu_si512(p, v); }
};
#endif

}  // namespace
}  // namespace ek
