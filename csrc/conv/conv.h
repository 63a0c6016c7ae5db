// Convolution and pooling over NHWC 8-bit tensors, on the GEMM kernels (indirect: row pointers, no im2col copy).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "gemm/gemm.h"
#include "kernels/kernels.h"

namespace ek {

/// Geometry shared by convolution and pooling. Padding at the end follows from the output size.
struct Window {
  size_t batch = 1, in_h = 0, in_w = 0, out_h = 0, out_w = 0;
  size_t kernel_h = 1, kernel_w = 1, stride_h = 1, stride_w = 1, dilation_h = 1, dilation_w = 1;
  size_t pad_top = 0, pad_left = 0;

  size_t pixels() const { return batch * out_h * out_w; }
  size_t taps() const { return kernel_h * kernel_w; }
};

struct ConvArgs {
  Window window;
  size_t in_c = 0, out_c = 0, groups = 1;
  const uint8_t* x = nullptr;  // NHWC, dense
  QuantParams x_q;
  const uint8_t* weights = nullptr;  // groups x packed bytes of {out_c/groups, taps, in_c/groups}, each 64-byte aligned
  const uint8_t* in_runs = nullptr;  // the same in the order of runs, of conv_runs_bytes(); null: each call orders them
  const int32_t* init = nullptr;     // [groups][out_c/groups rounded up to kStrip], from make_init
  uint8_t* y = nullptr;              // NHWC, dense: uint8/int8, float32 or int32 as the epilogue says
  Epilogue epilogue;                 // multiplier, bias: [groups][out_c/groups rounded up to kStrip]
  const Path* path = nullptr;        // as of GemmArgs
};

/// Bytes of weights in the order in which the input is read, where that is another one than they are packed in; else 0.
size_t conv_runs_bytes(const Runtime& rt, const ConvArgs& args);
/// Brings them into that order, once for all runs.
void pack_conv_runs(const Runtime& rt, const ConvArgs& args, uint8_t* to);
/// Scratch: a row of zero points, a sign-flipped copy of x where the ISA wants one, pointer tables per thread.
size_t conv_scratch_bytes(const Runtime& rt, const ConvArgs& args);
void conv(const Runtime& rt, const ConvArgs& args, uint8_t* scratch);
/// The path of gemm/paths.h that conv() will take.
const char* conv_path(const Runtime& rt, const ConvArgs& args);
/// Keys of all that it could.
std::vector<const char*> conv_choices(const Runtime& rt, const ConvArgs& args);

/// Depthwise: groups == in_c == out_c, weights from pack_depthwise. Same scratch rules.
size_t depthwise_scratch_bytes(const Runtime& rt, const ConvArgs& args);
void depthwise_conv(const Runtime& rt, const ConvArgs& args, uint8_t* scratch);

struct PoolArgs {
  Window window;
  size_t channels = 0;
  const uint8_t* x = nullptr;
  QuantParams x_q, y_q;
  bool count_include_pad = false;  // average only
  uint8_t* y = nullptr;
};

size_t pool_scratch_bytes(const Runtime& rt, const PoolArgs& args);
/// Maximum over the window's pixels inside the image; x_q and y_q have the same scale and zero point.
void max_pool(const Runtime& rt, const PoolArgs& args, uint8_t* scratch);
/// q = rne(clamp(float(sum(q - zp)) * float(s_x / (s_y * count)))) + zp.
void average_pool(const Runtime& rt, const PoolArgs& args, uint8_t* scratch);

}  // namespace ek
