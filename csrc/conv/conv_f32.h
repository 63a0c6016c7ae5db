// Convolutions of float32, channels last: each result one chain of fused multiply-adds over the taps, and within a tap
// over the channels, ascending. The padding is zeros, multiplied like any other float.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/window3.h"
#include "gemm/gemm_f32.h"
#include "kernels/kernels.h"

namespace ek {

struct F32ConvArgs {
  Window3 window;
  size_t in_c = 0, out_c = 0, groups = 1;
  /// Pixel i under tap t adds to pixel i * stride + t * dilation - pad. A tap that no pixel of the input has for an
  /// output pixel, whatever the input's size, is not multiplied.
  bool transposed = false;
  const float* x = nullptr;
  const float* weights = nullptr;  // by group: packed taps * in_c/groups deep and out_c/groups wide, 64-byte aligned
  void* y = nullptr;
  Epilogue epilogue;  // bias: [groups][out_c/groups rounded up to kStrip]; an addend is of y's shape
};

/// Floats of a group's packed weights, or false when their bytes do not fit in size_t.
bool f32_group_floats(const F32ConvArgs& args, size_t* out);

size_t conv_f32_scratch_bytes(const Runtime& rt, const F32ConvArgs& args);
void conv_f32(const Runtime& rt, const F32ConvArgs& args, uint8_t* scratch);

/// groups == in_c == out_c; weights [taps][channels rounded up to kStrip].
size_t depthwise_f32_scratch_bytes(const Runtime& rt, const F32ConvArgs& args);
void depthwise_f32(const Runtime& rt, const F32ConvArgs& args, uint8_t* scratch);

}  // namespace ek
