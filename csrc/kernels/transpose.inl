// transpose: bytes, y[c][r] = x[r][c]. What brings NCHW to NHWC and back.
//
// Method     16 columns of 16 rows in each lane of a register: rows i and i + 8 take bytes in turn, four times, which
//            makes rows of the columns. The lanes hold rows 16 apart, so that a column leaves as one run.
// Edges      the last block of a strip and the last strip overlap their neighbors. Below 16 rows or columns, blocks
//            that are filled up; three rows, an image, are woven in a way of their own.
// Cache      rows a power of two apart share the sets of an L1, and half of every line would leave it before it is
//            read: those come through a buffer, whole lines at a time.
#pragma once

#include EK_SIMD_HEADER
#include "simd/lanes.h"

namespace ek {
namespace {

constexpr size_t kByteBlock = 16;
constexpr size_t kSharedSets = 2048;  // rows that are a multiple of this apart

template <int L>
void transpose_block(const uint8_t* x, size_t ldx, uint8_t* y, size_t ldy) {
  Lanes<L> a[kByteBlock], b[kByteBlock];
  const auto take_turns = [](const auto& from, auto& to) EK_LAMBDA {
    unroll<8>([&](auto i) EK_LAMBDA {
      to[2 * i.value] = Lanes<L>::low(from[i.value], from[i.value + 8]);
      to[2 * i.value + 1] = Lanes<L>::high(from[i.value], from[i.value + 8]);
    });
  };
  unroll<16>([&](auto i) EK_LAMBDA { a[i.value] = Lanes<L>::load(x + i.value * ldx, kByteBlock * ldx); });
  take_turns(a, b);
  take_turns(b, a);
  take_turns(a, b);
  take_turns(b, a);
  unroll<16>([&](auto i) EK_LAMBDA { a[i.value].store(y + i.value * ldy); });
}

/// 16 * L rows of at least 16 columns.
template <int L>
EK_INLINE void transpose_strip(const uint8_t* x, size_t cols, size_t ldx, uint8_t* y, size_t ldy) {
  for (size_t c = 0; c < cols; c += kByteBlock) {
    const size_t at = c + kByteBlock <= cols ? c : cols - kByteBlock;
    transpose_block<L>(x + at, ldx, y + at * ldy, ldy);
  }
}

template <int L>
EK_INLINE void transpose_rows(const uint8_t* x, size_t cols, size_t ldx, uint8_t* y, size_t ldy) {
  constexpr size_t kLine = 64, kStep = kLine + kByteBlock;
  if (ldx % kSharedSets != 0 || cols < kLine) return transpose_strip<L>(x, cols, ldx, y, ldy);
  uint8_t lines[kByteBlock * L * kStep];
  for (size_t c = 0; c < cols; c += kLine) {
    const size_t at = c + kLine <= cols ? c : cols - kLine;
    for (size_t r = 0; r < kByteBlock * L; ++r) __builtin_memcpy(lines + r * kStep, x + r * ldx + at, kLine);
    transpose_strip<L>(lines, kLine, kStep, y + at * ldy, ldy);
  }
}

/// Up to 16 bytes.
EK_INLINE void copy_piece(uint8_t* to, const uint8_t* from, size_t n) {
  if (n >= 8) {
    __builtin_memcpy(to, from, 8);
    __builtin_memcpy(to + n - 8, from + n - 8, 8);
  } else if (n >= 4) {
    __builtin_memcpy(to, from, 4);
    __builtin_memcpy(to + n - 4, from + n - 4, 4);
  } else {
    for (size_t i = 0; i < n; ++i) to[i] = from[i];
  }
}

void transpose_narrow(const uint8_t* x, size_t rows, size_t cols, size_t ldx, uint8_t* y, size_t ldy) {
  uint8_t in[kByteBlock * kByteBlock] = {}, out[kByteBlock * kByteBlock];
  for (size_t r = 0; r < rows; r += kByteBlock) {
    const size_t height = rows - r < kByteBlock ? rows - r : kByteBlock;
    for (size_t c = 0; c < cols; c += kByteBlock) {
      const size_t width = cols - c < kByteBlock ? cols - c : kByteBlock;
      for (size_t i = 0; i < height; ++i) copy_piece(in + i * kByteBlock, x + (r + i) * ldx + c, width);
      transpose_block<1>(in, kByteBlock, out, kByteBlock);
      for (size_t i = 0; i < width; ++i) copy_piece(y + (c + i) * ldy + r, out + i * kByteBlock, height);
    }
  }
}

/// Three rows to pixels side by side; at least 16 of them.
void transpose_triples(const uint8_t* x, size_t cols, size_t ldx, uint8_t* y) {
  for (size_t c = 0; c < cols; c += kStrip) {
    const size_t at = c + kStrip <= cols ? c : cols - kStrip;
    store_triples(y + 3 * at, load_u8(x + at), load_u8(x + ldx + at), load_u8(x + 2 * ldx + at));
  }
}

void transpose(const uint8_t* x, size_t rows, size_t cols, size_t ldx, uint8_t* y, size_t ldy) {
  if (rows == 3 && ldy == 3 && cols >= kStrip) return transpose_triples(x, cols, ldx, y);
  if (rows < kByteBlock || cols < kByteBlock) return transpose_narrow(x, rows, cols, ldx, y, ldy);
  for (size_t r = 0; r < rows;) {
    const size_t left = rows - r;
    if constexpr (kMostLanes >= 4) {
      if (left >= 4 * kByteBlock) {
        transpose_rows<4>(x + r * ldx, cols, ldx, y + r, ldy);
        r += 4 * kByteBlock;
        continue;
      }
    }
    if constexpr (kMostLanes >= 2) {
      if (left >= 2 * kByteBlock) {
        transpose_rows<2>(x + r * ldx, cols, ldx, y + r, ldy);
        r += 2 * kByteBlock;
        continue;
      }
    }
    if (left < kByteBlock) r = rows - kByteBlock;
    transpose_rows<1>(x + r * ldx, cols, ldx, y + r, ldy);
    r += kByteBlock;
  }
}

}  // namespace
}  // namespace ek
