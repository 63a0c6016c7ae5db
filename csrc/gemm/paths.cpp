#include "gemm/paths.h"

#include <algorithm>
#include <atomic>
#include <iterator>

#include "base/checked.h"
#include "cpu/machine.h"
#include "gemm/panels.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;

/// Stores past the caches take whole lines.
bool streams(const GemmArgs& args) {
  return std::max(args.m, args.whole_m) * args.ldc > stream_bytes() &&
         (reinterpret_cast<size_t>(args.c) | args.ldc) % kLine == 0;
}

// thin: a product that is one quad deep, and nothing to do but to store int32 sums: rows as long as they go.

bool takes_thin(const Kernels&, const GemmArgs& args) {
  const PackedShape& shape = args.b.shape;
  return shape.taps == 1 && shape.k_per_tap > 0 && shape.k_per_tap <= 4 && args.epilogue.kind == OutKind::kInt32 &&
         !streams(args);
}

void run_thin(const Kernels& kernels, const GemmArgs& args, const Rect& rect, size_t) {
  const uint8_t* room[kMaxTileRows];
  GemmTile tile = tile_over(kernels, args);
  tile.row0 = rect.row0;
  set_columns(args, rect.col0, rect.col1 - rect.col0, &tile);
  for (size_t row = rect.row0; row < rect.row1; row += tile.rows) {
    set_rows(args, row, std::min(kMaxTileRows, rect.row1 - row), room, &tile);
    kernels.gemm_thin(tile);
    tile.c = static_cast<uint8_t*>(tile.c) + tile.rows * args.ldc;
  }
}

// tile: whatever there is.

bool takes_all(const Kernels&, const GemmArgs&) { return true; }

template <typename Run>
void run_tiles(const Kernels& kernels, const GemmArgs& args, const Rect& rect, size_t strips, Run&& run) {
  GemmTile tile = tile_over(kernels, args);
  tile.stream_c = streams(args);
  walk_panels<kMaxTileRows, true>(args, rect, kernels.tile_rows, strips, tile, run);
  if (tile.stream_c) {  // a locked instruction waits for streamed lines, which no plain store does
    std::atomic<int> order{0};
    order.fetch_add(1);
  }
}

void run_tile(const Kernels& kernels, const GemmArgs& args, const Rect& rect, size_t strips) {
  run_tiles(kernels, args, rect, strips, [&](const GemmTile& t) { kernels.gemm_tile(t, args.epilogue); });
}

// spread: the same where a dot product multiplies int16: rows are widened once for all of their columns.

constexpr size_t kMostSpread = 4608;  // numbers of a row: those of a tile fit into the L1, and onto the stack
constexpr size_t kSpreadTileRows = 4;

size_t spread_numbers(const GemmArgs& args) { return args.b.shape.quads() * 4; }

bool takes_spread(const Kernels& kernels, const GemmArgs& args) {
  return kernels.gemm_spread != nullptr && args.b.shape.k_per_tap > 0 && spread_numbers(args) <= kMostSpread;
}

void run_spread(const Kernels& kernels, const GemmArgs& args, const Rect& rect, size_t strips) {
  EK_ASSERT(kernels.tile_rows <= kSpreadTileRows);
  alignas(kLine) int16_t room[kSpreadTileRows * kMostSpread + kSpreadSlack];
  const size_t stride = spread_numbers(args);
  size_t row = SIZE_MAX;
  run_tiles(kernels, args, rect, strips, [&](const GemmTile& t) {
    if (t.row0 != row) kernels.spread_rows(t, room, stride);
    row = t.row0;
    GemmTile spread = t;
    spread.spread = room;
    spread.spread_stride = stride;
    kernels.gemm_spread(spread, args.epilogue);
  });
}

// gemv: one row, the panels of the first half of the columns beside those of the second; tiles do the last columns,
// fewer than it takes.

bool takes_gemv(const Kernels&, const GemmArgs& args) {
  const PackedShape& shape = args.b.shape;
  return args.m == 1 && shape.taps == 1 && shape.n >= kMacroTile &&
         args.unit.value_or(host_unit(1, kMacroTile, shape.k_per_tap)) == Unit::kCube;
}

void run_gemv(const Kernels& kernels, const GemmArgs& args, const Rect& rect, size_t strips) {
  const uint8_t* room[1];
  GemmTile tile = tile_over(kernels, args);
  set_rows(args, rect.row0, 1, room, &tile);
  const size_t first = rect.col0 / kPanel, each = (rect.col1 / kPanel - first) / kGemvPanels;
  for (size_t i = 0; i < each; ++i) {
    GemmTile tiles[kGemvPanels];
    for (size_t j = 0; j < kGemvPanels; ++j) {
      tiles[j] = tile;
      set_columns(args, (first + j * each + i) * kPanel, kPanel, &tiles[j]);
    }
    kernels.gemv(tiles, args.epilogue);
  }
  const size_t done = rect.col0 + kGemvPanels * each * kPanel;
  if (done < rect.col1) run_tile(kernels, args, {rect.row0, rect.row1, done, rect.col1}, strips);
}

// shallow: so few quads deep that the weights of a panel stay in registers while many rows go by.

bool takes_shallow(const Kernels& kernels, const GemmArgs& args) {
  return args.a_sign == kernels.native_sign &&
         is_shallow(kernels, args.b.shape.taps, args.b.shape.k_per_tap, args.epilogue);
}

void run_shallow(const Kernels& kernels, const GemmArgs& args, const Rect& rect, size_t) {
  walk_panels<kShallowRows, false>(args, rect, kShallowRows, kPanel / kStrip, tile_over(kernels, args),
                                   [&](const GemmTile& t) { kernels.gemm_shallow(t, args.epilogue); });
}

constexpr Path kPaths[] = {
    {"thin", "thin", kMaxTileRows, 0, takes_thin, run_thin},
    {"gemv", "gemv", 1, kGemvPanels, takes_gemv, run_gemv},
    {"shallow", "shallow", kShallowRows, 0, takes_shallow, run_shallow},
    {"tile", "spread", kMaxTileRows, 0, takes_spread, run_spread},
    {"tile", "tile", kMaxTileRows, 0, takes_all, run_tile},
};

}  // namespace

const Path& path_of(const Kernels& kernels, const GemmArgs& args) {
  if (args.path != nullptr && args.path->takes(kernels, args)) return *args.path;
  const Path* path = kPaths;
  while (!path->takes(kernels, args)) ++path;
  return *path;
}

std::vector<const char*> paths_for(const Kernels& kernels, const GemmArgs& args) {
  std::vector<const char*> keys;
  for (const Path& path : kPaths) {
    if (path.takes(kernels, args)) keys.push_back(path.key);
  }
  return keys;
}

const Path* find_path(const std::string& key) {
  const auto* const found =
      std::find_if(std::begin(kPaths), std::end(kPaths), [&](const Path& path) { return key == path.key; });
  return found == std::end(kPaths) ? nullptr : found;
}

}  // namespace ek
