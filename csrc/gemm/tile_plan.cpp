#include "gemm/tile_plan.h"

#include <algorithm>

#include "base/checked.h"

namespace ek {
namespace {

// cube granule (rows, cols, k), Cube rate, Vector granule (cols, k), Vector rate, Cube start-up.
//
// host: the register tile's granules; rates are those of one AVX-512 VNNI core near 3.7 GHz. Only their ratio and the
//   start-up cost matter to the choice: a block goes to Vector when it is too small to pay for starting a macro block.
// ascend310p3: 16 x 16 cube, 32 int8 values of k a cycle. The rates are the ones that the article's own case implies:
//   [4096,128] x [128,4096] in 1.2 ms on the Cube and 26 ms on Vector.
// kirin990, sm8650: same granule; 4 and 18 T multiply-adds a second are vendor peaks, Vector taken at 1/20 of them.
constexpr DeviceProfile kHost = {"host", 1, 16, 4, 230'000.0, 16, 4, 160'000.0, 0.03};
constexpr DeviceProfile kDevices[] = {
    kHost,
    {"ascend310p3", 16, 16, 32, 1'790'000.0, 16, 1, 82'600.0, 2.0},
    {"kirin990", 16, 16, 16, 4'000'000.0, 16, 1, 200'000.0, 2.0},
    {"sm8650", 16, 16, 32, 18'000'000.0, 16, 1, 900'000.0, 2.0},
};

TileBlock choose_unit(size_t row0, size_t row1, size_t col0, size_t col1, size_t k, const DeviceProfile& d) {
  const size_t rows = row1 - row0, cols = col1 - col0;
  const auto macs = [](size_t r, size_t c, size_t depth) {
    return static_cast<double>(r) * static_cast<double>(c) * static_cast<double>(depth);
  };
  const size_t cube_rows = round_up(rows, d.cube_rows), cube_cols = round_up(cols, d.cube_cols);
  const size_t vector_cols = round_up(cols, d.vector_cols);
  const double cube_us = d.block_overhead_us + macs(cube_rows, cube_cols, round_up(k, d.cube_k)) / d.cube_macs_per_us;
  const double vector_us = macs(rows, vector_cols, round_up(k, d.vector_k)) / d.vector_macs_per_us;
  if (cube_us <= vector_us) return {row0, row1, col0, col1, Unit::kCube, cube_rows, cube_cols, cube_us};
  return {row0, row1, col0, col1, Unit::kVector, rows, vector_cols, vector_us};
}

}  // namespace

Unit host_unit(size_t rows, size_t cols, size_t k) {
  // Both units of the host pad alike, so the number of multiply-adds alone says which one takes less time.
  static_assert(kHost.cube_rows == 1 && kHost.cube_cols == kHost.vector_cols && kHost.cube_k == kHost.vector_k);
  constexpr double kWorth = kHost.block_overhead_us / (1 / kHost.vector_macs_per_us - 1 / kHost.cube_macs_per_us);
  const double macs = static_cast<double>(rows) * static_cast<double>(round_up(cols, kHost.cube_cols)) *
                      static_cast<double>(round_up(k, kHost.cube_k));
  return macs >= kWorth ? Unit::kCube : Unit::kVector;
}

const DeviceProfile* find_device(const std::string& name) {
  for (const DeviceProfile& device : kDevices) {
    if (name == device.name) return &device;
  }
  return nullptr;
}

std::vector<std::string> device_names() {
  std::vector<std::string> names;
  for (const DeviceProfile& device : kDevices) names.emplace_back(device.name);
  return names;
}

TilePlan make_tile_plan(size_t m, size_t n, size_t k, size_t tile, const DeviceProfile& device) {
  TilePlan plan{m, n, k, tile, &device, {}};
  plan.blocks.reserve(ceil_div(m, tile) * ceil_div(n, tile));
  for (size_t row = 0; row < m; row += tile) {
    for (size_t col = 0; col < n; col += tile) {
      plan.blocks.push_back(choose_unit(row, std::min(row + tile, m), col, std::min(col + tile, n), k, device));
    }
  }
  return plan;
}

}  // namespace ek
