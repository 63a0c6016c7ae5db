// What steps on batches of strided matrices share: four axes of batches, and a matrix at each.
#pragma once

#include <array>

#include "gemm/matmul_f32.h"
#include "program/steps/checks.h"

namespace ek {

inline BatchSteps batch_steps(const std::array<int64_t, 4>& steps) {
  return {static_cast<ptrdiff_t>(steps[0]), static_cast<ptrdiff_t>(steps[1]), static_cast<ptrdiff_t>(steps[2]),
          static_cast<ptrdiff_t>(steps[3])};
}

/// `holds`, which is stays_inside or is_whole, of a tensor and the axes of all its matrices.
inline bool of_batches(bool (*holds)(const TensorDef&, std::initializer_list<Axis>), const TensorDef& tensor,
                       const BatchSizes& batch, const std::array<int64_t, 4>& steps, Axis row, Axis column) {
  return holds(tensor,
               {{batch[0], steps[0]}, {batch[1], steps[1]}, {batch[2], steps[2]}, {batch[3], steps[3]}, row, column});
}

}  // namespace ek
