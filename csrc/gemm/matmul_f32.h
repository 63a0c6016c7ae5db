// Products of float32 tensors that are both known at run time only, and attention, which is two of them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace ek {

/// Up to four axes of products; steps from one to the next are in elements, 0 where an operand is the same.
using BatchSizes = std::array<size_t, 4>;
using BatchSteps = std::array<ptrdiff_t, 4>;

/// C = A * B * scale, product by product.
struct F32MatmulArgs {
  BatchSizes batch{1, 1, 1, 1};
  BatchSteps a_batch{}, b_batch{}, c_batch{};
  size_t rows = 0, k = 0, columns = 0;
  ptrdiff_t a_row = 0, a_k = 1, b_k = 0, b_column = 1, c_row = 0;  // elements; C's columns lie side by side
  float scale = 1.0f;
  const float *a = nullptr, *b = nullptr;
  float* c = nullptr;
};

/// Of operands whose packed form fits in size_t for every thread, as the caller has checked.
size_t matmul_f32_scratch_bytes(const Runtime& rt, const F32MatmulArgs& args);
void matmul_f32(const Runtime& rt, const F32MatmulArgs& args, uint8_t* scratch);

/// y = softmax(scale * q * k^T + mask) * v. Each score is a chain of fused multiply-adds over the depth, ascending;
/// what becomes of it is exp_scores'; y is a chain over the keys, ascending, divided by the sum. Where every score of a
/// row is minus infinity, the row is NaN.
struct F32AttentionArgs {
  BatchSizes batch{1, 1, 1, 1};
  BatchSteps q_batch{}, k_batch{}, v_batch{}, mask_batch{}, y_batch{};
  size_t rows = 0, keys = 0, depth = 0, value_depth = 0;
  ptrdiff_t q_row = 0, k_row = 0, k_depth = 1, v_row = 0, mask_row = 0, y_row = 0;
  bool mask_column = false;  // one for each key; else one for a row
  float scale = 1.0f;
  const float *q = nullptr, *k = nullptr, *v = nullptr, *mask = nullptr;
  float* y = nullptr;
};

size_t attention_f32_scratch_bytes(const Runtime& rt, const F32AttentionArgs& args);
void attention_f32(const Runtime& rt, const F32AttentionArgs& args, uint8_t* scratch);

/// Where the `number`-th product's operand starts.
inline ptrdiff_t batch_at(const BatchSizes& batch, const BatchSteps& steps, size_t number) {
  ptrdiff_t at = 0;
  for (size_t axis = 4; axis-- > 0; number /= batch[axis]) {
    at += static_cast<ptrdiff_t>(number % batch[axis]) * steps[axis];
  }
  return at;
}
inline size_t batches(const BatchSizes& batch) { return batch[0] * batch[1] * batch[2] * batch[3]; }

}  // namespace ek
