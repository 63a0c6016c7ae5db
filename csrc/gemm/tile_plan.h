// tile_plan: which blocks of C go to the Cube path, which edges to the Vector path, and what each is expected to cost.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "base/status.h"

namespace ek {

enum class Unit : unsigned char { kCube, kVector };

struct TileBlock {
  size_t row0, row1, col0, col1;  // half-open
  Unit unit;
  size_t padded_rows, padded_cols;  // what the unit computes, >= the block
  double cost_us;                   // predicted, one core
};

/// What the planner needs to know of a device; figures and their sources stand in tile_plan.cpp.
struct DeviceProfile {
  const char* name;
  size_t cube_rows, cube_cols, cube_k;  // granule that the Cube pads a block to
  double cube_macs_per_us;
  size_t vector_cols, vector_k;  // granule of the Vector path
  double vector_macs_per_us;
  double block_overhead_us;  // fixed cost of starting a Cube block
};

const DeviceProfile* find_device(const std::string& name);  // nullptr when unknown
std::vector<std::string> device_names();

inline constexpr size_t kMacroTile = 256;  // side of a block of C on the host

/// The unit that takes a block of C on the host, where no plan is ever listed: make_tile_plan() says the same.
Unit host_unit(size_t rows, size_t cols, size_t k);

/// The plan as a list, for reports and for devices.
struct TilePlan {
  size_t m = 0, n = 0, k = 0, tile = kMacroTile;
  const DeviceProfile* device = nullptr;
  std::vector<TileBlock> blocks;
};

/// Cuts C into tile x tile blocks, row by row; a tail block is padded on the Cube or sent to Vector, whichever costs
/// less.
TilePlan make_tile_plan(size_t m, size_t n, size_t k, size_t tile, const DeviceProfile& device);

}  // namespace ek
