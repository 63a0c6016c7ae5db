// Pixels of an image at places that a grid names, between its pixels and beyond its edges: ONNX's GridSample.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/kernels.h"

namespace ek {

enum class GridMode : uint8_t { kLinear, kNearest, kCubic };
enum class GridPadding : uint8_t { kZeros, kBorder, kReflection };

/// Sides beyond this have pixels that a float32 does not tell apart.
inline constexpr size_t kMostGridSide = size_t{1} << 22;

/// x is [batch, height, width, channels], the grid [batch, points, 2] in -1 .. 1 across and down, y [batch, points,
/// channels].
struct GridSampleArgs {
  size_t batch = 0, height = 0, width = 0, points = 0, channels = 0;
  GridMode mode{};
  GridPadding padding{};
  bool align_corners = false;
  const float* x = nullptr;
  const float* grid = nullptr;
  float* y = nullptr;
};
void grid_sample(const Runtime& rt, const GridSampleArgs& args);

}  // namespace ek
