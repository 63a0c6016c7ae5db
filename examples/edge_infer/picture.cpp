#include "picture.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace {

constexpr float kMean[] = {0.485f, 0.456f, 0.406f}, kDeviation[] = {0.229f, 0.224f, 0.225f};
constexpr std::size_t kMostSide = 1 << 15;

std::uint8_t to_byte(float value) { return static_cast<std::uint8_t>(std::lround(std::clamp(value, 0.0f, 255.0f))); }

/// How much of the pixel `at` lies in [begin, end).
float share(std::size_t at, float begin, float end) {
  const auto left = static_cast<float>(at);
  return std::max(0.0f, std::min(end, left + 1) - std::max(begin, left));
}

/// One channel of the mean of a rectangle of pixels.
float mean_of(const Picture& p, std::size_t channel, float left, float top, float size) {
  float sum = 0, weights = 0;
  const auto last_y = std::min(p.height, static_cast<std::size_t>(std::ceil(top + size)));
  const auto last_x = std::min(p.width, static_cast<std::size_t>(std::ceil(left + size)));
  for (auto y = static_cast<std::size_t>(top); y < last_y; ++y) {
    for (auto x = static_cast<std::size_t>(left); x < last_x; ++x) {
      const float weight = share(x, left, left + size) * share(y, top, top + size);
      sum += weight * static_cast<float>(p.rgb[(y * p.width + x) * 3 + channel]);
      weights += weight;
    }
  }
  return sum / weights;
}

}  // namespace

Picture read_nv12(const std::string& path, std::size_t width, std::size_t height) {
  const auto is_side = [](std::size_t n) { return n >= 2 && n <= kMostSide && n % 2 == 0; };
  if (!is_side(width) || !is_side(height)) throw std::runtime_error("the sides of an NV12 frame are even, 2 to 32768");
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("'" + path + "' cannot be opened");
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), {}};
  if (bytes.size() != width * height * 3 / 2) {
    throw std::runtime_error("'" + path + "' has " + std::to_string(bytes.size()) +
                             " bytes, and a frame of that size " + std::to_string(width * height * 3 / 2));
  }
  const auto at = [&](std::size_t i) { return static_cast<float>(static_cast<std::uint8_t>(bytes[i])); };
  Picture picture{width, height, {}};
  for (std::size_t y = 0; y < height; ++y) {
    for (std::size_t x = 0; x < width; ++x) {
      const std::size_t chroma = width * height + y / 2 * width + x / 2 * 2;
      const float luma = at(y * width + x), u = at(chroma) - 128, v = at(chroma + 1) - 128;
      for (const float value : {luma + 1.402f * v, luma - 0.344136f * u - 0.714136f * v, luma + 1.772f * u}) {
        picture.rgb.push_back(to_byte(value));
      }
    }
  }
  return picture;
}

std::vector<float> prepare(const Picture& p, std::size_t side) {
  const float square = static_cast<float>(std::min(p.width, p.height)) * 0.875f;
  const float left = (static_cast<float>(p.width) - square) / 2, top = (static_cast<float>(p.height) - square) / 2;
  const float step = square / static_cast<float>(side);
  std::vector<float> tensor;
  tensor.reserve(3 * side * side);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    for (std::size_t y = 0; y < side; ++y) {
      for (std::size_t x = 0; x < side; ++x) {
        const float value =
            mean_of(p, channel, left + static_cast<float>(x) * step, top + static_cast<float>(y) * step, step);
        tensor.push_back((value / 255 - kMean[channel]) / kDeviation[channel]);
      }
    }
  }
  return tensor;
}
