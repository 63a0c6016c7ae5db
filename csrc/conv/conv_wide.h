// Convolutions of 16-bit activations, exact: one convolution of the upper bytes and one of the lower ones.
#pragma once

#include <cstddef>
#include <cstdint>

#include "conv/conv.h"
#include "gemm/gemm_wide.h"

namespace ek {

struct ConvWideArgs {
  ConvArgs conv;  // window, channels, weights and epilogue, a real kind; y. Its x, x_q and init are not read
  bool depthwise = false;
  const float* x = nullptr;  // NHWC, dense, quantized as `q` says
  WideParams q;
  const double* start = nullptr;  // [groups][out_c/groups rounded up to kStrip], from make_wide_start
};

const char* conv_wide_path(const Runtime& rt, const ConvWideArgs& args);
/// Keys of all that it could take.
std::vector<const char*> conv_wide_choices(const Runtime& rt, const ConvWideArgs& args);
/// Of a convolution whose x and y are there.
size_t conv_wide_scratch_bytes(const Runtime& rt, const ConvWideArgs& args);
void conv_wide(const Runtime& rt, const ConvWideArgs& args, uint8_t* scratch);

}  // namespace ek
