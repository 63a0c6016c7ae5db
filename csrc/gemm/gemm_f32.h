// Products of float32: C = finish(A * B), each value one chain of fused multiply-adds, k ascending.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/checked.h"
#include "kernels/kernels.h"

namespace ek {

/// float32 weights as kernels read them: strips of [k][16], the last one filled up with zeros; or rows of n floats and
/// more where they lie, `line` apart, of which the last strip alone is packed where 16 columns would leave the row.
struct F32Weights {
  size_t k = 0, n = 0;
  const float* data = nullptr;
  size_t line = kStrip;         // another than kStrip: rows where they lie
  const float* tail = nullptr;  // the last strip, packed, of rows where they lie

  bool packed() const { return line == kStrip; }
  size_t step() const { return packed() ? k * kStrip : kStrip; }
  const float* strip(size_t i) const { return data + i * step(); }
};

/// Floats that packing k x n takes, or false when their bytes do not fit in size_t.
bool f32_packed_floats(size_t k, size_t n, size_t* out);

/// Packs w[k * stride_k + n * stride_n] (strides in elements, any sign).
void pack_f32(const Runtime& rt, size_t k, size_t n, const float* w, ptrdiff_t stride_k, ptrdiff_t stride_n,
              float* out);

/// Where the rows of a product lie: k floats each, lda apart; or, with a table, `runs` runs of `run` floats, of which
/// that of row i starts at table[run * table_ld + i], and its line of B `lines[run]` floats behind the strip's first.
struct F32Rows {
  const float* a = nullptr;
  size_t lda = 0;
  const float* const* table = nullptr;
  size_t table_ld = 0, runs = 1, run = 0;
  const size_t* lines = nullptr;
};

struct F32Args {
  size_t m = 0;
  const float* a = nullptr;
  size_t lda = 0;  // floats from row to row
  F32Weights b;
  float scale = 1.0f;  // of each product, before anything else is done to it
  Epilogue epilogue;   // a real kind; its addend and bias lie apart from C
  void* c = nullptr;
  size_t ldc = 0;  // bytes from row to row
};

/// Rows whose part of A stays in a cache while strips of B pass by: a block of `rows` of m, evenly.
size_t f32_block_rows(const Kernels& kernels, size_t m);

/// Rows [row0, row1) of the product, whose places `rows` tells from row0 on, times strips [strip0, strip1).
void f32_block(const Kernels& kernels, const F32Args& args, const F32Rows& rows, size_t row0, size_t row1,
               size_t strip0, size_t strip1);

/// Pieces of a product of m rows and so many strips that threads take from each other: along the longer side, as many
/// as are worth it. 1: not worth a second thread.
struct F32Pieces {
  size_t count;
  bool of_rows;
};
F32Pieces f32_pieces(const Runtime& rt, size_t m, size_t strips, size_t k);

/// Deeper products leave unfinished sums in C: an addend that lies there would be lost.
inline constexpr size_t kMostAtOnceDepth = 256;

/// Floats of scratch in which a product that reads its rows again and again copies them side by side, or 0.
size_t f32_scratch_floats(const Runtime& rt, size_t m, size_t k, size_t n);
/// Scratch may be null: rows are read where they lie.
void gemm_f32(const Runtime& rt, const F32Args& args, float* scratch = nullptr);

}  // namespace ek
