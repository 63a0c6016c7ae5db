// Moves of 4-byte words.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernel.h"

namespace ek {

struct WordKernels {
  // y[c][r] = x[r][c], words; rows ldx and ldy words apart.
  EK_KERNEL void (*transpose_words)(const uint32_t* x, size_t rows, size_t cols, size_t ldx, uint32_t* y, size_t ldy);
};

#define EK_WORD_KERNELS(X) X(transpose_words)

}  // namespace ek
