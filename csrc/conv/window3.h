// Geometry of float convolutions, which have up to three axes: the last is the one whose pixels lie side by side.
#pragma once

#include <array>
#include <cstddef>

namespace ek {

/// Sizes over depth, height and width; axes that there are not come first and are 1. Padding at the end follows from
/// the output size.
struct Window3 {
  size_t batch = 1;
  std::array<size_t, 3> in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, dilation{1, 1, 1}, pad{0, 0, 0};

  size_t in_pixels() const { return batch * in[0] * in[1] * in[2]; }
  size_t out_pixels() const { return batch * out[0] * out[1] * out[2]; }
  size_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

/// An output row: which image, depth and height, and where it starts.
struct OutRow {
  size_t batch, d, h;
};
inline OutRow out_row(const Window3& w, size_t row) {
  const size_t plane = row / w.out[1], batch = plane / w.out[0];
  return {batch, plane - batch * w.out[0], row - plane * w.out[1]};
}

}  // namespace ek
