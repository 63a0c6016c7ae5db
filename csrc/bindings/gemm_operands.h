// What matmul_integer and linear share: packed weights as a Python object, and the checks of their operands.
#pragma once

#include <string>
#include <vector>

#include "base/buffer.h"
#include "bindings/arrays.h"
#include "gemm/gemm.h"
#include "gemm/pack4.h"

namespace ek {

/// Weights of one matrix in a packed layout: of 8 bits with the scale of every column, or of fewer with those of
/// groups.
struct PackedWeights {
  PackedShape shape;
  AlignedBuffer data;
  std::vector<float> scale;  // 8 bits: [n padded], empty when none was given
  PackedShape4 shape4;       // fewer: group is not 0
  float unit = 1.0f;         // fewer: of the scales
  py::object mapped;         // an array that has the panels instead of `data`, such as a mapped file
  const uint8_t* mapped_bytes = nullptr;
  size_t mapped_size = 0;

  /// The panels, on a cache line.
  const uint8_t* bytes() const { return mapped ? mapped_bytes : data.data(); }
  size_t size() const { return mapped ? mapped_size : data.size(); }
  bool grouped() const { return shape4.group != 0; }
  int bits() const { return grouped() ? shape4.bits() : 8; }
  /// Of 8 bits; the caller has looked.
  PackedView view() const {
    EK_ASSERT(!grouped());
    return {shape, bytes()};
  }
};

PackedWeights pack_weights_s8(const char* function, const char* argument, const py::array& w);

/// Bytes from row to row of an operand with contiguous rows.
size_t row_bytes(const char* function, const char* argument, const py::array& a);
/// Bytes from the first to the last of `rows` rows that are `stride` apart and `last` long.
inline size_t span_bytes(size_t rows, size_t stride, size_t last) { return rows == 0 ? 0 : (rows - 1) * stride + last; }

void require_inner(const char* function, const char* left, size_t k_left, const char* right, size_t k_right);
void check_zero_point(const char* function, const char* argument, Sign sign, int32_t z);

/// Runs the GEMM with the thread's workspace. The caller has checked everything.
void run_gemm(const Runtime& rt, GemmArgs args, int32_t a_zero_point, const int32_t* bias);

}  // namespace ek
