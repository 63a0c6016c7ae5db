// Element-wise and byte-moving operators over whole tensors, threaded. Shapes are row-major.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace ek {

void quantize(const Runtime& rt, const float* x, size_t n, QuantParams q, uint8_t* y);
void dequantize(const Runtime& rt, const uint8_t* x, size_t n, QuantParams q, float* y);

/// A tensor around the axis along which its maps run.
struct ChannelShape {
  size_t outer, channels, inner;
};
/// The same with a map for each channel; all have one sign.
void quantize_channels(const Runtime& rt, const float* x, const ChannelShape& shape, const QuantParams* maps,
                       uint8_t* y);
void dequantize_channels(const Runtime& rt, const uint8_t* x, const ChannelShape& shape, const QuantParams* maps,
                         float* y);

/// x is (batch, channels, pixels) float32, y is (batch, pixels, channels) 8-bit: the border of an NCHW model.
void quantize_nchw_to_nhwc(const Runtime& rt, const float* x, size_t batch, size_t channels, size_t pixels,
                           QuantParams q, uint8_t* y);
/// The way back.
void dequantize_nhwc_to_nchw(const Runtime& rt, const uint8_t* x, size_t batch, size_t channels, size_t pixels,
                             QuantParams q, float* y);

/// y = quantize(dequantize(a) + dequantize(b)) clamped to [lo, hi] around y's zero point (as Epilogue's).
void add(const Runtime& rt, const uint8_t* a, QuantParams qa, const uint8_t* b, QuantParams qb, size_t n,
         QuantParams qy, float lo, float hi, uint8_t* y);
/// y[i] = table[x[i]], table of 256 bytes.
void lookup(const Runtime& rt, const uint8_t* x, size_t n, const uint8_t* table, uint8_t* y);

/// Row by row, `count` pieces side by side: piece i is dense rows of bytes[i] (concat along the last axis).
void concat_rows(const Runtime& rt, const uint8_t* const* pieces, const size_t* bytes, size_t count, size_t rows,
                 uint8_t* y);

/// y[i0,i1,i2,i3] = x[start + i * step], four axes, elements of one byte; steps may be negative.
void slice4(const uint8_t* x, const size_t x_shape[4], const size_t y_shape[4], const ptrdiff_t start[4],
            const ptrdiff_t step[4], uint8_t* y);
/// x placed at `before` inside y, the rest of y filled with `value`; four axes, bytes.
void pad4(const uint8_t* x, const size_t x_shape[4], const size_t y_shape[4], const size_t before[4], uint8_t value,
          uint8_t* y);
/// y = transpose(x): y_shape[i] = x_shape[perm[i]]; elements of `item` bytes (1, 2, 4 or 8).
void transpose4(const Runtime& rt, const uint8_t* x, const size_t x_shape[4], const int perm[4], size_t item,
                uint8_t* y);

/// Symmetric per row: scale[m] = max|x|/127 (1.0 for a row of zeros), q = quantize(x, scale, 0) in [-127, 127], with
/// 128 added when `sign` is kU8.
void dynamic_quantize_rows(const Runtime& rt, const float* x, size_t rows, size_t cols, size_t ldx, Sign sign,
                           uint8_t* q, size_t ldq, float* scale);
/// The same with a zero point for each row: quantize_spans of elementwise kernels.
void dynamic_quantize_spans(const Runtime& rt, const float* x, size_t rows, size_t cols, size_t ldx, Sign sign,
                            uint8_t* q, size_t ldq, float* scale, int32_t* zero_point);

}  // namespace ek
