// Pictures: read, cut to the middle, scaled and normalized as MobileNetV2 wants them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

struct Picture {
  std::size_t width = 0, height = 0;
  std::vector<std::uint8_t> rgb;  // row by row, three bytes a pixel
};

/// All functions throw std::runtime_error with the path.
Picture read_jpeg(const std::string& path);
/// A frame of a camera: height rows of Y, then height / 2 rows of U and V in turns; full range, BT.601. Sides are even.
Picture read_nv12(const std::string& path, std::size_t width, std::size_t height);

/// (3, side, side): the middle square, 7/8 of the shorter side, averaged over the pixels that meet there, each channel
/// (x / 255 - mean) / deviation of ImageNet.
std::vector<float> prepare(const Picture& picture, std::size_t side);
