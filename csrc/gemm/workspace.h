// What a thread keeps from product to product, so that a small one allocates nothing.
#pragma once

#include <memory>

#include "base/buffer.h"
#include "gemm/gemm.h"

namespace ek {

/// Buffers of one product, borrowed from the calling thread for as long as this object lives:
///   Workspace work(kernels, &args, zero_point, bias);
///   gemm(rt, args);
/// A product inside another one (a host's scheduler may nest them on one thread) gets buffers of its own.
class Workspace {
 public:
  /// Fills args->init from the zero point and `bias` (n values, or null). Throws std::bad_alloc.
  Workspace(const Kernels& kernels, GemmArgs* args, int32_t a_zero_point, const int32_t* bias);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  /// `values` (n of them, or null) followed by zeros up to the strip's end. Two slots: what an epilogue needs.
  const float* padded(int slot, const float* values, size_t n);

 private:
  struct Kept {
    AlignedBuffer init, columns[2];
  };
  static thread_local std::unique_ptr<Kept> t_kept;
  std::unique_ptr<Kept>& home_;  // this thread's t_kept, which takes a look-up to find
  std::unique_ptr<Kept> kept_;
};

}  // namespace ek
