// Weights of a product in groups as kernels read them, each group on lines of its own.
#pragma once

#include <cstdlib>

#include "base/buffer.h"
#include "base/checked.h"
#include "gemm/pack.h"

namespace ek::test {

/// Of (groups, columns, taps, k), dense; `shape` is one group's.
inline AlignedBuffer pack_groups(const int8_t* weights, size_t groups, const PackedShape& shape) {
  size_t bytes = 0;
  if (!shape.bytes(&bytes)) std::abort();
  const size_t each = round_up(bytes, 64), depth = shape.taps * shape.k_per_tap;
  AlignedBuffer packed(each * groups);
  for (size_t g = 0; g < groups; ++g) {
    pack_weights(shape, weights + g * shape.n * depth, static_cast<ptrdiff_t>(depth),
                 static_cast<ptrdiff_t>(shape.k_per_tap), 1, packed.data() + g * each);
  }
  return packed;
}

}  // namespace ek::test
