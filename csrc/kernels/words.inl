// transpose_words: y[c][r] = x[r][c] of 4-byte words.
//
// Method     blocks of 4 x 4 in four registers of 16 bytes, in the compiler's own vectors: shuffles of that width are
//            one instruction everywhere. Four rows of x are walked to their end, so that each is one run of memory.
// Edges      what is left of four rows or columns goes word by word.
#pragma once

#include EK_SIMD_HEADER
#include "kernels/words.h"

#ifdef __clang__
#define EK_SHUFFLE_WORDS(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define EK_SHUFFLE_WORDS(a, b, ...) __builtin_shuffle(a, b, Words{__VA_ARGS__})
#endif

namespace ek {
namespace {

using Words = uint32_t __attribute__((vector_size(16)));

EK_INLINE Words load_words(const uint32_t* p) {
  Words w;
  __builtin_memcpy(&w, p, sizeof w);
  return w;
}
EK_INLINE void store_words(uint32_t* p, Words w) { __builtin_memcpy(p, &w, sizeof w); }

void transpose_words(const uint32_t* x, size_t rows, size_t cols, size_t ldx, uint32_t* y, size_t ldy) {
  size_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const uint32_t* const from = x + r * ldx;
    size_t c = 0;
    for (; c + 4 <= cols; c += 4) {
      const Words a = load_words(from + c), b = load_words(from + ldx + c), d = load_words(from + 2 * ldx + c),
                  e = load_words(from + 3 * ldx + c);
      const Words ab0 = EK_SHUFFLE_WORDS(a, b, 0, 4, 1, 5), ab1 = EK_SHUFFLE_WORDS(a, b, 2, 6, 3, 7);
      const Words de0 = EK_SHUFFLE_WORDS(d, e, 0, 4, 1, 5), de1 = EK_SHUFFLE_WORDS(d, e, 2, 6, 3, 7);
      uint32_t* const to = y + c * ldy + r;
      store_words(to, EK_SHUFFLE_WORDS(ab0, de0, 0, 1, 4, 5));
      store_words(to + ldy, EK_SHUFFLE_WORDS(ab0, de0, 2, 3, 6, 7));
      store_words(to + 2 * ldy, EK_SHUFFLE_WORDS(ab1, de1, 0, 1, 4, 5));
      store_words(to + 3 * ldy, EK_SHUFFLE_WORDS(ab1, de1, 2, 3, 6, 7));
    }
    for (; c < cols; ++c) {
      for (size_t i = 0; i < 4; ++i) y[c * ldy + r + i] = from[i * ldx + c];
    }
  }
  for (size_t c = 0; c < cols; ++c) {
    for (size_t i = r; i < rows; ++i) y[c * ldy + i] = x[i * ldx + c];
  }
}

}  // namespace
}  // namespace ek
