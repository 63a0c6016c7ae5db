// transpose_words: y[c][r] = x[r][c] of 4-byte words.
//
// Method     blocks of 4 x 4 in four registers of 16 bytes, in the compiler's own vectors: shuffles of that width are
//            one instruction everywhere. Sixteen rows at a time, so that whole lines of y are written.
// Edges      what is left of four rows or columns goes word by word. Three columns or rows, an image, are woven.
// Cache      rows a power of two apart share the sets of an L1, and a line would leave it before it is used up: those
//            come through a buffer, a whole line at a time.
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

constexpr size_t kLineWords = 16, kSharedWords = 512;  // rows that are a multiple of this apart share sets

EK_INLINE void transpose_4x4(const uint32_t* x, size_t ldx, uint32_t* y, size_t ldy) {
  const Words a = load_words(x), b = load_words(x + ldx), c = load_words(x + 2 * ldx), d = load_words(x + 3 * ldx);
  const Words ab0 = EK_SHUFFLE_WORDS(a, b, 0, 4, 1, 5), ab1 = EK_SHUFFLE_WORDS(a, b, 2, 6, 3, 7);
  const Words cd0 = EK_SHUFFLE_WORDS(c, d, 0, 4, 1, 5), cd1 = EK_SHUFFLE_WORDS(c, d, 2, 6, 3, 7);
  store_words(y, EK_SHUFFLE_WORDS(ab0, cd0, 0, 1, 4, 5));
  store_words(y + ldy, EK_SHUFFLE_WORDS(ab0, cd0, 2, 3, 6, 7));
  store_words(y + 2 * ldy, EK_SHUFFLE_WORDS(ab1, cd1, 0, 1, 4, 5));
  store_words(y + 3 * ldy, EK_SHUFFLE_WORDS(ab1, cd1, 2, 3, 6, 7));
}

/// Rows of a multiple of four, all columns.
EK_INLINE void transpose_band(const uint32_t* x, size_t rows, size_t cols, size_t ldx, uint32_t* y, size_t ldy) {
  size_t c = 0;
  for (; c + 4 <= cols; c += 4) {
    for (size_t r = 0; r < rows; r += 4) transpose_4x4(x + r * ldx + c, ldx, y + c * ldy + r, ldy);
  }
  for (; c < cols; ++c) {
    for (size_t r = 0; r < rows; ++r) y[c * ldy + r] = x[r * ldx + c];
  }
}

/// Sixteen rows.
EK_INLINE void transpose_rows_of_line(const uint32_t* x, size_t cols, size_t ldx, uint32_t* y, size_t ldy) {
  constexpr size_t kStep = kLineWords + 4;
  if (ldx % kSharedWords != 0) return transpose_band(x, kLineWords, cols, ldx, y, ldy);
  uint32_t lines[kLineWords * kStep];
  for (size_t c = 0; c < cols; c += kLineWords) {
    const size_t n = cols - c < kLineWords ? cols - c : kLineWords;
    for (size_t r = 0; r < kLineWords; ++r) {
      if (n == kLineWords) {
        __builtin_memcpy(lines + r * kStep, x + r * ldx + c, kLineWords * sizeof(uint32_t));
      } else {
        for (size_t i = 0; i < n; ++i) lines[r * kStep + i] = x[r * ldx + c + i];
      }
    }
    transpose_band(lines, kLineWords, n, kStep, y + c * ldy, ldy);
  }
}

/// Dense rows of three words to three rows; a multiple of four rows.
EK_INLINE void part_triples(const uint32_t* x, size_t rows, uint32_t* y, size_t ldy) {
  for (size_t r = 0; r < rows; r += 4, x += 12) {
    const Words a = load_words(x), b = load_words(x + 4), c = load_words(x + 8);
    const Words p = EK_SHUFFLE_WORDS(a, b, 0, 3, 6, 6), q = EK_SHUFFLE_WORDS(a, b, 1, 4, 7, 7),
                s = EK_SHUFFLE_WORDS(a, b, 2, 5, 5, 5);
    store_words(y + r, EK_SHUFFLE_WORDS(p, c, 0, 1, 2, 5));
    store_words(y + ldy + r, EK_SHUFFLE_WORDS(q, c, 0, 1, 2, 6));
    store_words(y + 2 * ldy + r, EK_SHUFFLE_WORDS(s, c, 0, 1, 4, 7));
  }
}

/// The way back: three rows to dense triples, a multiple of four of them.
EK_INLINE void weave_triples(const uint32_t* x, size_t cols, size_t ldx, uint32_t* y) {
  for (size_t i = 0; i < cols; i += 4, y += 12) {
    const Words a = load_words(x + i), b = load_words(x + ldx + i), c = load_words(x + 2 * ldx + i);
    const Words p = EK_SHUFFLE_WORDS(a, b, 0, 4, 1, 5), q = EK_SHUFFLE_WORDS(a, b, 5, 2, 6, 6),
                s = EK_SHUFFLE_WORDS(a, b, 3, 7, 7, 7);
    store_words(y, EK_SHUFFLE_WORDS(p, c, 0, 1, 4, 2));
    store_words(y + 4, EK_SHUFFLE_WORDS(q, c, 0, 5, 1, 2));
    store_words(y + 8, EK_SHUFFLE_WORDS(s, c, 6, 0, 1, 7));
  }
}

void transpose_words(const uint32_t* x, size_t rows, size_t cols, size_t ldx, uint32_t* y, size_t ldy) {
  const size_t by_four = rows / 4 * 4, columns_by_four = cols / 4 * 4;
  size_t r = 0;
  if (cols == 3 && ldx == 3) {
    part_triples(x, by_four, y, ldy);
    r = by_four;
  } else if (rows == 3 && ldy == 3) {
    weave_triples(x, columns_by_four, ldx, y);
    x += columns_by_four, y += columns_by_four * ldy, cols -= columns_by_four;
  }
  for (; r + kLineWords <= rows; r += kLineWords) transpose_rows_of_line(x + r * ldx, cols, ldx, y + r, ldy);
  if (r < by_four) {
    transpose_band(x + r * ldx, by_four - r, cols, ldx, y + r, ldy);
    r = by_four;
  }
  for (size_t c = 0; r < rows && c < cols; ++c) {
    for (size_t i = r; i < rows; ++i) y[c * ldy + i] = x[i * ldx + c];
  }
}

}  // namespace
}  // namespace ek
