// Operators that move values: NCHW <-> NHWC at the borders, concat, slice, pad.
#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "cpu/machine.h"
#include "elementwise/elementwise.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// A border task converts this many channels x pixels through a buffer on its stack.
constexpr size_t kChannels = 32, kPixels = 256;
/// Pixels of three channels that make a task: some microseconds of work.
constexpr size_t kTriples = 8192;

/// Bytes that make a task of a concat.
constexpr size_t kConcatBytes = 65536;
/// Short rows are copied in pieces of this size; a call would cost more.
constexpr size_t kPiece = 16, kShort = 1024;

/// Dense rows of `bytes` to rows `stride` apart. The last piece of a row overlaps its neighbor.
void copy_rows(const uint8_t* x, size_t rows, size_t bytes, uint8_t* y, size_t stride) {
  for (size_t row = 0; row < rows; ++row, x += bytes, y += stride) {
    if (bytes < kPiece || bytes > kShort) {
      std::memcpy(y, x, bytes);
      continue;
    }
    for (size_t i = 0; i + kPiece < bytes; i += kPiece) std::memcpy(y + i, x + i, kPiece);
    std::memcpy(y + bytes - kPiece, x + bytes - kPiece, kPiece);
  }
}

/// Values that one thread turns between bytes and floats in a microsecond, in a new order.
constexpr double kPatchedPerUs = 450;

struct Patch {
  size_t batch, channel, channels, pixel, pixels;
};

/// Cuts (batch, channels, pixels) into patches of at most kChannels x kPixels.
template <typename Body>
void for_each_patch(const Runtime& rt, size_t batch, size_t channels, size_t pixels, Body&& body) {
  const size_t channel_parts = ceil_div(channels, kChannels), pixel_parts = ceil_div(pixels, kPixels);
  const bool shared = worth_a_thread(static_cast<double>(batch * channels * pixels) / kPatchedPerUs);
  parallel_for(batch * channel_parts * pixel_parts, shared ? rt.threads : 1, [&](size_t task) {
    const size_t channel = task % channel_parts * kChannels, pixel = task / channel_parts % pixel_parts * kPixels;
    body(Patch{task / (channel_parts * pixel_parts), channel, std::min(kChannels, channels - channel), pixel,
               std::min(kPixels, pixels - pixel)});
  });
}

}  // namespace

void quantize_nchw_to_nhwc(const Runtime& rt, const float* x, size_t batch, size_t channels, size_t pixels,
                           QuantParams q, uint8_t* y) {
  if (channels == 3) {  // an image
    const size_t parts = ceil_div(pixels, kTriples);
    parallel_for(batch * parts, rt.threads, [&](size_t task) {
      const size_t image = task / parts, pixel = task % parts * kTriples, n = std::min(kTriples, pixels - pixel);
      rt.kernels->quantize_triples(x + image * 3 * pixels + pixel, pixels, n, q, y + (image * pixels + pixel) * 3);
    });
    return;
  }
  for_each_patch(rt, batch, channels, pixels, [&](const Patch& p) {
    uint8_t bytes[kChannels * kPixels];
    for (size_t c = 0; c < p.channels; ++c) {
      const float* from = x + (p.batch * channels + p.channel + c) * pixels + p.pixel;
      rt.kernels->quantize(from, p.pixels, q, bytes + c * kPixels);
    }
    uint8_t* to = y + (p.batch * pixels + p.pixel) * channels + p.channel;
    rt.kernels->transpose(bytes, p.channels, p.pixels, kPixels, to, channels);
  });
}

void dequantize_nhwc_to_nchw(const Runtime& rt, const uint8_t* x, size_t batch, size_t channels, size_t pixels,
                             QuantParams q, float* y) {
  for_each_patch(rt, batch, channels, pixels, [&](const Patch& p) {
    uint8_t bytes[kChannels * kPixels];
    const uint8_t* from = x + (p.batch * pixels + p.pixel) * channels + p.channel;
    rt.kernels->transpose(from, p.pixels, p.channels, channels, bytes, kPixels);
    for (size_t c = 0; c < p.channels; ++c) {
      float* to = y + (p.batch * channels + p.channel + c) * pixels + p.pixel;
      rt.kernels->dequantize(bytes + c * kPixels, p.pixels, q, to);
    }
  });
}

void concat_rows(const Runtime& rt, const uint8_t* const* pieces, const size_t* bytes, size_t count, size_t rows,
                 uint8_t* y) {
  size_t line = 0;
  for (size_t i = 0; i < count; ++i) line += bytes[i];
  const size_t rows_per_task = std::max<size_t>(1, kConcatBytes / std::max<size_t>(1, line));
  parallel_for(ceil_div(rows, rows_per_task), rt.threads, [&](size_t task) {
    const size_t begin = task * rows_per_task, end = std::min(rows, begin + rows_per_task);
    size_t at = 0;
    for (size_t i = 0; i < count; at += bytes[i++]) {
      copy_rows(pieces[i] + begin * bytes[i], end - begin, bytes[i], y + begin * line + at, line);
    }
  });
}

void slice4(const uint8_t* x, const size_t x_shape[4], const size_t y_shape[4], const ptrdiff_t start[4],
            const ptrdiff_t step[4], uint8_t* y) {
  const auto at = [&](int axis, size_t i) {
    return static_cast<size_t>(start[axis] + static_cast<ptrdiff_t>(i) * step[axis]);
  };
  for (size_t i = 0; i < y_shape[0]; ++i) {
    for (size_t j = 0; j < y_shape[1]; ++j) {
      for (size_t k = 0; k < y_shape[2]; ++k) {
        const uint8_t* row = x + ((at(0, i) * x_shape[1] + at(1, j)) * x_shape[2] + at(2, k)) * x_shape[3];
        if (step[3] == 1) {
          std::memcpy(y, row + start[3], y_shape[3]);
        } else {
          for (size_t l = 0; l < y_shape[3]; ++l) y[l] = row[at(3, l)];
        }
        y += y_shape[3];
      }
    }
  }
}

void pad4(const uint8_t* x, const size_t x_shape[4], const size_t y_shape[4], const size_t before[4], uint8_t value,
          uint8_t* y) {
  std::memset(y, value, y_shape[0] * y_shape[1] * y_shape[2] * y_shape[3]);
  for (size_t i = 0; i < x_shape[0]; ++i) {
    for (size_t j = 0; j < x_shape[1]; ++j) {
      for (size_t k = 0; k < x_shape[2]; ++k, x += x_shape[3]) {
        const size_t row = ((i + before[0]) * y_shape[1] + j + before[1]) * y_shape[2] + k + before[2];
        std::memcpy(y + row * y_shape[3] + before[3], x, x_shape[3]);
      }
    }
  }
}

}  // namespace ek
