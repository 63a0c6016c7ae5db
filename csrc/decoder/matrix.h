// Matrix: packed weights of one linear layer, in float32, int8 per column or 4 or 2 bits per group, behind one product.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/buffer.h"
#include "gemm/pack.h"
#include "gemm/pack4.h"
#include "kernels/kernels.h"
#include "weights/source.h"

namespace ek {

/// (n, k) float32 weights, rows `ld` floats apart, as panels of 64 columns: [k][64]. One row reads them in one stream.
size_t packed_f32_bytes(size_t n, size_t k);
void pack_f32(size_t n, size_t k, const float* w, size_t ld, float* out);

/// Weights that others own; `bits` says which members count.
struct Matrix {
  int bits = 0;  // 32, 8, 4, 2
  size_t n = 0, k = 0;
  const uint8_t* data = nullptr;   // of a source: only while it is pinned
  WeightSource* source = nullptr;  // null: data stays where it is
  uint64_t offset = 0;             // in the source
  const float* scale = nullptr;    // 8: [n padded to kStrip]
  AlignedBuffer init;              // 8: from make_symmetric_init for the decoder's ISA
  PackedShape4 shape4;             // 4, 2
  float unit = 1.0f;               // 4, 2: of the scales
  const float* bias = nullptr;     // [n], or null

  bool grouped() const { return bits == 4 || bits == 2; }
  size_t bytes() const;         // of the weights, read once a product
  size_t packed_bytes() const;  // of all that data points at
};

/// A matrix is where it can be multiplied by as long as this lives.
class PinnedMatrix {
 public:
  explicit PinnedMatrix(Matrix& matrix) : matrix_(matrix) {
    if (matrix_.source != nullptr) matrix_.data = matrix_.source->pin(matrix_.offset, matrix_.packed_bytes());
  }
  ~PinnedMatrix() {
    if (matrix_.source == nullptr) return;
    matrix_.source->unpin(matrix_.offset, matrix_.packed_bytes());
    matrix_.data = nullptr;
  }
  PinnedMatrix(const PinnedMatrix&) = delete;
  PinnedMatrix& operator=(const PinnedMatrix&) = delete;

 private:
  Matrix& matrix_;
};

/// Bytes of scratch that multiply() needs for so many rows.
size_t multiply_scratch_bytes(const Matrix& matrix, size_t rows);

/// Where the rows of a product come from: x as it is, or normed by `gain` on the way.
struct RowSource {
  const float* x;  // (rows, k), ldx floats apart
  size_t ldx;
  const float* gain = nullptr;  // RMS norm, [k]; null: none
  float eps = 0;
};

/// y = activation(source @ w^T + bias) + addend: (rows, n), or (rows, n / 2) for SwiGLU, rows `ldy` floats apart. The
/// addend has y's shape and stride and may be y.
void multiply(const Runtime& rt, const Matrix& matrix, const RowSource& source, size_t rows, Activation activation,
              const float* addend, float* y, size_t ldy, uint8_t* scratch);

}  // namespace ek
