// Depthwise convolution: every channel by itself.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/epilogue.h"
#include "kernels/kernel.h"

namespace ek {

/// A run of output pixels of a depthwise convolution, all channels.
struct DepthwiseRow {
  const uint8_t* const* taps;      // [pixels][quads * 4] pointers to `channels` bytes, native sign
  size_t pixels, quads, channels;  // taps come in fours; those past the kernel's meet zero weights
  const int8_t* weights;           // [channels/16][quads][16][4], zero padded
  const int32_t* init;             // [channels], padded
  void* out;                       // the first pixel: bytes, int32 or floats, as the epilogue says
  size_t out_ld;                   // bytes from pixel to pixel
  size_t row;                      // index of the first pixel, for the residual
};

/// Rows of output pixels of a 3x3 depthwise convolution: 8-bit out, no residual, no dilation, stride 1 or 2 along the
/// row. Channels a multiple of 16, at least 64; or 32 with stride 1 and an even out_w.
struct Depthwise3x3 {
  const uint8_t* const* rows;  // [out_rows][3] rows of the image under each row of the output; null: outside of it
  const uint8_t* zeros;        // 64 zero points
  size_t out_rows, in_w, out_w, pad_left, stride, channels;
  const int8_t* weights;  // as in DepthwiseRow
  const int32_t* init;
  uint8_t* out;  // dense
};

/// Weights, starts and multipliers of few channels, as bytes of rows have them: those of byte b are the ones of channel
/// b % channels, in the ISA's own order of each 64.
struct SpreadDepthwise {
  const int8_t* weights;  // as in DepthwiseRow
  const int32_t* init;
  const float* multiplier;
  size_t channels, quads, period;  // period * 64 is a multiple of channels
  uint8_t* to_weights;             // [period][quads][4][64]
  int32_t* to_init;                // [period * 64]
  float* to_multiplier;            // [period * 64]
};

/// A row of output pixels as bytes, a pixel's channels behind those of the one before: 8-bit out, no residual.
struct DepthwiseRun {
  const uint8_t* const* taps;   // [quads * 4] pointers to what each tap reads, `bytes` up to a multiple of 64
  size_t bytes, quads, period;  // of weights, init and multiplier, as spread_depthwise has written them
  const uint8_t* weights;
  const int32_t* init;
  const float* multiplier;
  uint8_t* out;
};

struct DepthwiseKernels {
  EK_KERNEL void (*depthwise_row)(const DepthwiseRow& row, const Epilogue& epilogue);
  EK_KERNEL void (*depthwise_3x3)(const Depthwise3x3& rows, const Epilogue& epilogue);
  EK_KERNEL void (*spread_depthwise)(const SpreadDepthwise& channels);
  EK_KERNEL void (*depthwise_run)(const DepthwiseRun& run, const Epilogue& epilogue);
};

#define EK_DEPTHWISE_KERNELS(X) X(depthwise_row) X(depthwise_3x3) X(spread_depthwise) X(depthwise_run)

}  // namespace ek
