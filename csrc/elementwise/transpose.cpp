// Transposition of bytes in blocks of 16 x 16: what brings NCHW to NHWC and back.
#include <algorithm>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "elementwise/elementwise.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kBlock = 16;
/// Rows and columns of a task: whole cache lines on both sides, which stay in L1.
constexpr size_t kTaskRows = 64, kTaskCols = 256;

using Bytes = uint8_t __attribute__((vector_size(kBlock)));

/// One full block. Bytes of rows i and i + 8 take turns; after four rounds, rows are columns.
void transpose_block(const uint8_t* x, size_t ldx, uint8_t* y, size_t ldy) {
  constexpr Bytes kLow = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
  constexpr Bytes kHigh = {8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  Bytes a[kBlock], b[kBlock];
  for (size_t i = 0; i < kBlock; ++i) std::memcpy(&a[i], x + i * ldx, kBlock);
  for (int round = 0; round < 4; round += 2) {
    for (size_t i = 0; i < kBlock / 2; ++i) {
      b[2 * i] = __builtin_shuffle(a[i], a[i + kBlock / 2], kLow);
      b[2 * i + 1] = __builtin_shuffle(a[i], a[i + kBlock / 2], kHigh);
    }
    for (size_t i = 0; i < kBlock / 2; ++i) {
      a[2 * i] = __builtin_shuffle(b[i], b[i + kBlock / 2], kLow);
      a[2 * i + 1] = __builtin_shuffle(b[i], b[i + kBlock / 2], kHigh);
    }
  }
  for (size_t i = 0; i < kBlock; ++i) std::memcpy(y + i * ldy, &a[i], kBlock);
}

/// y is x with its axes in the order of perm. If that swaps two runs of axes behind one that stays, (batch, rows, cols)
/// becomes (batch, cols, rows); axes of length 1 stand anywhere.
bool swaps_two_runs(const size_t x_shape[4], const int perm[4], size_t* batch, size_t* rows, size_t* cols) {
  int from[4] = {}, to[4] = {}, n = 0, m = 0;
  for (int i = 0; i < 4; ++i) {
    if (x_shape[i] != 1) from[n++] = i;
    if (x_shape[perm[i]] != 1) to[m++] = perm[i];
  }
  int at = 0;
  for (*batch = *rows = *cols = 1; at < n && from[at] == to[at]; ++at) *batch *= x_shape[from[at]];
  if (at == n) std::swap(*batch, *cols);  // nothing moves: one row
  int split = at;
  while (split < n && from[split] != to[at]) *rows *= x_shape[from[split++]];
  for (int i = split; i < n; ++i) *cols *= x_shape[from[i]];
  for (int i = at; i < n; ++i) {
    if (to[i] != from[i - at < n - split ? i - at + split : i - (n - split)]) return false;
  }
  return true;
}

}  // namespace

void transpose_bytes(const uint8_t* x, size_t rows, size_t cols, size_t ldx, uint8_t* y, size_t ldy) {
  for (size_t r = 0; r < rows; r += kBlock) {
    for (size_t c = 0; c < cols; c += kBlock) {
      const size_t height = std::min(kBlock, rows - r), width = std::min(kBlock, cols - c);
      const uint8_t* const from = x + r * ldx + c;
      uint8_t* const to = y + c * ldy + r;
      if (height == kBlock && width == kBlock) {
        transpose_block(from, ldx, to, ldy);
        continue;
      }
      uint8_t in[kBlock * kBlock] = {}, out[kBlock * kBlock];
      for (size_t i = 0; i < height; ++i) std::memcpy(in + i * kBlock, from + i * ldx, width);
      transpose_block(in, kBlock, out, kBlock);
      for (size_t i = 0; i < width; ++i) std::memcpy(to + i * ldy, out + i * kBlock, height);
    }
  }
}

void transpose4(const Runtime& rt, const uint8_t* x, const size_t x_shape[4], const int perm[4], size_t item,
                uint8_t* y) {
  size_t batch = 0, rows = 0, cols = 0;
  if (item == 1 && swaps_two_runs(x_shape, perm, &batch, &rows, &cols)) {
    const size_t down = ceil_div(rows, kTaskRows), across = ceil_div(cols, kTaskCols);
    parallel_for(batch * down * across, rt.threads, [&](size_t task) {
      const size_t image = task / (down * across) * rows * cols;
      const size_t r = task / across % down * kTaskRows, c = task % across * kTaskCols;
      transpose_bytes(x + image + r * cols + c, std::min(kTaskRows, rows - r), std::min(kTaskCols, cols - c), cols,
                      y + image + c * rows + r, rows);
    });
    return;
  }
  const size_t x_stride[4] = {x_shape[1] * x_shape[2] * x_shape[3] * item, x_shape[2] * x_shape[3] * item,
                              x_shape[3] * item, item};
  size_t shape[4], stride[4];
  for (int i = 0; i < 4; ++i) shape[i] = x_shape[perm[i]], stride[i] = x_stride[perm[i]];
  for (size_t i = 0; i < shape[0]; ++i) {
    for (size_t j = 0; j < shape[1]; ++j) {
      for (size_t k = 0; k < shape[2]; ++k) {
        const uint8_t* from = x + i * stride[0] + j * stride[1] + k * stride[2];
        for (size_t l = 0; l < shape[3]; ++l, y += item) std::memcpy(y, from + l * stride[3], item);
      }
    }
  }
}

}  // namespace ek
