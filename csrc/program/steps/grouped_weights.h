// Packed weights of a product in groups, as blobs have them: one group behind the other, each on lines of its own.
#pragma once

#include "base/checked.h"
#include "gemm/pack.h"

namespace ek {

struct GroupedWeights {
  PackedShape shape;  // of one group
  size_t groups;

  /// False where they are too many.
  bool bytes(size_t* all) const {
    size_t group = 0;
    return shape.bytes(&group) && checked_mul(round_up(group, kLineBytes), groups, all);
  }
  /// Of weights whose bytes have been checked.
  PackedView group(const uint8_t* weights, size_t g) const {
    size_t each = 0;
    static_cast<void>(shape.bytes(&each));
    return {shape, weights + g * round_up(each, kLineBytes)};
  }

 private:
  static constexpr size_t kLineBytes = 64;
};

}  // namespace ek
