#include "gemm/gemm.h"

#include <algorithm>
#include <atomic>

#include "base/checked.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;
/// Packed weights that stay in L2 while rows pass over them.
constexpr size_t kWeightBytes = size_t{512} << 10;
/// A larger C would only push the operands out of the caches.
constexpr size_t kStreamBytes = size_t{32} << 20;
/// Work below which a second thread costs more than it brings: 2^20 multiply-adds are about 4.5 us of an AVX-512 core.
constexpr double kSerialMacs = 1 << 20;
/// Multiply-adds in the time that one value of C takes to be stored.
constexpr size_t kStoreMacs = 24;
/// Work of one unit that idle threads may take from a busy one.
constexpr double kUnitMacs = 4 << 20;

size_t depth(const GemmArgs& args) { return args.b.shape.taps * args.b.shape.k_per_tap; }

/// Stores past the caches take whole lines.
bool streams(const GemmArgs& args) {
  return std::max(args.m, args.whole_m) * args.ldc > kStreamBytes &&
         (reinterpret_cast<size_t>(args.c) | args.ldc) % kLine == 0;
}

/// One quad deep, and nothing to do but to store int32 sums.
bool is_thin(const GemmArgs& args) {
  return depth(args) > 0 && depth(args) <= 4 && args.epilogue.kind == OutKind::kInt32 && !streams(args);
}

struct Rect {
  size_t row0, row1, col0, col1;
};

/// What all tiles of a product share.
GemmTile tile_over(const Kernels& kernels, const GemmArgs& args, const uint8_t* const* rows) {
  GemmTile tile{};
  tile.a = rows;
  tile.taps = 1;
  tile.k = depth(args);
  tile.flip = args.a_sign != kernels.native_sign;
  tile.ldc = args.ldc;
  return tile;
}

/// A part of the blocks of one row of the plan; col0 is a multiple of the panel. Rows are cut into tiles of even
/// height, the higher ones first: 49 are four tiles of six and five of five, not eight of six and one of one.
void run_rect(const Kernels& kernels, const GemmArgs& args, const Rect& rect, size_t max_strips) {
  const PackedShape& shape = args.b.shape;
  const uint8_t* rows[kMaxTileRows];
  GemmTile tile = tile_over(kernels, args, rows);
  tile.stream_c = streams(args);
  const size_t height = rect.row1 - rect.row0, tiles = ceil_div(height, kernels.tile_rows);
  const size_t low = height / tiles, high_tiles = height % tiles;
  const size_t panels_at_once = std::max<size_t>(1, kWeightBytes / std::max<size_t>(1, kPanel * shape.quads() * 4));
  for (size_t first = rect.col0; first < rect.col1; first += panels_at_once * kPanel) {
    const size_t last = std::min(rect.col1, first + panels_at_once * kPanel);
    tile.row0 = rect.row0;
    for (size_t i = 0; i < tiles; ++i, tile.row0 += tile.rows) {
      tile.rows = i < high_tiles ? low + 1 : low;
      for (size_t r = 0; r < tile.rows; ++r) rows[r] = args.a + (tile.row0 + r) * args.lda;
      for (size_t col = first; col < last; col += tile.strips * kStrip) {
        const size_t panel = col / kPanel, in_panel = col % kPanel;
        const size_t panel_end = std::min((panel + 1) * kPanel, last);
        tile.strips = std::min(max_strips, ceil_div(panel_end - col, kStrip));
        tile.cols = std::min(tile.strips * kStrip, panel_end - col);
        tile.b = args.b.panel(panel) + in_panel * 4;
        tile.b_step = shape.panel_width(panel) * 4;
        tile.init = args.init + col;
        tile.col0 = col;
        tile.c = static_cast<uint8_t*>(args.c) + tile.row0 * args.ldc + out_bytes(args.epilogue, col);
        kernels.gemm_tile(tile, args.epilogue);
      }
    }
  }
  if (tile.stream_c) {  // a locked instruction waits for streamed lines, which no plain store does
    std::atomic<int> order{0};
    order.fetch_add(1);
  }
}

/// A product that is one quad deep: rows as long as they go, because its stores are all its work.
void run_thin(const Kernels& kernels, const GemmArgs& args, const Rect& rect) {
  const uint8_t* rows[kMaxTileRows];
  GemmTile tile = tile_over(kernels, args, rows);
  tile.b = args.b.panel(rect.col0 / kPanel);
  tile.init = args.init + rect.col0;
  tile.cols = rect.col1 - rect.col0;
  for (size_t row = rect.row0; row < rect.row1; row += tile.rows) {
    tile.rows = std::min(kMaxTileRows, rect.row1 - row);
    for (size_t r = 0; r < tile.rows; ++r) rows[r] = args.a + (row + r) * args.lda;
    tile.c = static_cast<uint8_t*>(args.c) + row * args.ldc + out_bytes(args.epilogue, rect.col0);
    kernels.gemm_thin(tile);
  }
}

/// So few quads deep that the weights of a panel stay in registers while many rows go by.
void run_shallow(const Kernels& kernels, const GemmArgs& args, const Rect& rect) {
  const PackedShape& shape = args.b.shape;
  const uint8_t* rows[kShallowRows];
  GemmTile tile = tile_over(kernels, args, rows);
  for (tile.row0 = rect.row0; tile.row0 < rect.row1; tile.row0 += tile.rows) {
    tile.rows = std::min(kShallowRows, rect.row1 - tile.row0);
    for (size_t r = 0; r < tile.rows; ++r) rows[r] = args.a + (tile.row0 + r) * args.lda;
    for (tile.col0 = rect.col0; tile.col0 < rect.col1; tile.col0 += tile.cols) {
      const size_t panel = tile.col0 / kPanel;
      tile.cols = std::min(kPanel, rect.col1 - tile.col0);
      tile.strips = ceil_div(tile.cols, kStrip);
      tile.b = args.b.panel(panel);
      tile.b_step = shape.panel_width(panel) * 4;
      tile.init = args.init + tile.col0;
      tile.c = static_cast<uint8_t*>(args.c) + tile.row0 * args.ldc + tile.col0;
      kernels.gemm_shallow(tile, args.epilogue);
    }
  }
}

/// One row: the panels of the first half of `rect` beside those of the second. Returns the first column left to do.
size_t run_gemv(const Kernels& kernels, const GemmArgs& args, const Rect& rect) {
  const size_t first = rect.col0 / kPanel, each = (rect.col1 / kPanel - first) / kGemvPanels;
  for (size_t i = 0; i < each; ++i) {
    GemmTile tiles[kGemvPanels];
    for (size_t j = 0; j < kGemvPanels; ++j) {
      const size_t panel = first + j * each + i, col = panel * kPanel;
      tiles[j] = tile_over(kernels, args, &args.a);
      tiles[j].rows = 1;
      tiles[j].b = args.b.panel(panel);
      tiles[j].b_step = kPanel * 4;
      tiles[j].init = args.init + col;
      tiles[j].strips = kPanel / kStrip;
      tiles[j].cols = kPanel;
      tiles[j].c = static_cast<uint8_t*>(args.c) + out_bytes(args.epilogue, col);
      tiles[j].col0 = col;
    }
    kernels.gemv(tiles, args.epilogue);
  }
  return (first + kGemvPanels * each) * kPanel;
}

/// C as a grid of equal regions, one a thread, each a row of units: a thread finds its own part of the operands in its
/// caches from call to call, and who is done takes units from the others.
struct Grid {
  size_t down = 1, across = 1, units = 1;  // regions along M and N; units of a region
  size_t tile_rows;
  size_t m, n;

  size_t threads() const { return down * across; }
  size_t row(size_t i, size_t parts) const { return std::min(m, ceil_div(m, tile_rows) * i / parts * tile_rows); }
  size_t col(size_t i, size_t parts) const { return std::min(n, ceil_div(n, kPanel) * i / parts * kPanel); }
  Rect unit(size_t index) const {
    const size_t region = index / units, i = region / across, j = region % across, piece = index % units;
    if (rows_are_longer()) {
      return {row(i * units + piece, down * units), row(i * units + piece + 1, down * units), col(j, across),
              col(j + 1, across)};
    }
    return {row(i, down), row(i + 1, down), col(j * units + piece, across * units),
            col(j * units + piece + 1, across * units)};
  }
  bool rows_are_longer() const { return m / down >= n / across; }
};

Grid make_grid(const Runtime& rt, const GemmArgs& args) {
  Grid grid;
  grid.tile_rows = rt.kernels->tile_rows;
  grid.m = args.m;
  grid.n = args.b.shape.n;
  const double macs = static_cast<double>(grid.m) * static_cast<double>(round_up(grid.n, kStrip)) *
                      static_cast<double>(depth(args) + kStoreMacs);
  if (macs < kSerialMacs || rt.threads <= 1) return grid;
  const size_t tiles = ceil_div(grid.m, grid.tile_rows), panels = ceil_div(grid.n, kPanel);
  const size_t threads = std::min(static_cast<size_t>(rt.threads), tiles * panels);
  // The grid whose largest region has the fewest tiles. Columns are shared out only where rows cannot be: two threads
  // that write to the same pages of C fetch each other's lines.
  constexpr double kColumnPenalty = 1.04;
  double least = 0;
  for (size_t across = 1; across <= threads; ++across) {
    if (threads % across != 0) continue;
    const double largest = static_cast<double>(ceil_div(tiles, threads / across) * ceil_div(panels, across));
    const double cost = across == 1 ? largest : largest * kColumnPenalty;
    if (across > 1 && cost >= least) continue;
    least = cost;
    grid.down = threads / across;
    grid.across = across;
  }
  const double units = macs / kUnitMacs / static_cast<double>(threads);
  grid.units = threads == 1 ? 1 : static_cast<size_t>(std::clamp(units, 1.0, 4.0));
  return grid;
}

/// What a product's blocks are multiplied by. A gemv leaves its last columns, fewer than it takes, to the tiles.
enum class Path { kThin, kGemv, kShallow, kTile };

bool runs_shallow(const Kernels& kernels, const GemmArgs& args) {
  return args.a_sign == kernels.native_sign && is_shallow(kernels, 1, depth(args), args.epilogue);
}

Path path_of(const Kernels& kernels, const GemmArgs& args, const TilePlan& plan) {
  if (is_thin(args)) return Path::kThin;
  if (args.m == 1 && plan.n >= plan.tile && plan.blocks[0].unit == Unit::kCube) return Path::kGemv;
  return runs_shallow(kernels, args) ? Path::kShallow : Path::kTile;
}

/// The blocks of the plan, or what lies of them in `unit`. Neighbors of one kind are one part: along a row of C the
/// caches know what comes next.
void run_unit(const Runtime& rt, const GemmArgs& args, const TilePlan& plan, const Rect& unit) {
  const Kernels& kernels = *rt.kernels;
  const size_t across = ceil_div(plan.n, plan.tile);
  const Rect whole_blocks = {unit.row0, unit.row1, unit.col0, std::min(unit.col1, plan.n / plan.tile * plan.tile)};
  const Path path = path_of(kernels, args, plan);
  const bool gemv = path == Path::kGemv && whole_blocks.col0 < whole_blocks.col1;
  const bool shallow = path != Path::kThin && runs_shallow(kernels, args);
  const size_t done = gemv ? run_gemv(kernels, args, whole_blocks) : unit.col0;
  for (size_t i = unit.row0 / plan.tile; i * plan.tile < unit.row1; ++i) {
    const TileBlock* const row = plan.blocks.data() + i * across;
    for (size_t j = unit.col0 / plan.tile; j * plan.tile < unit.col1;) {
      const TileBlock& first = row[j];
      const bool cube = first.unit == Unit::kCube;
      Rect part = {std::max(unit.row0, first.row0), std::min(unit.row1, first.row1), std::max(done, first.col0), 0};
      for (; j * plan.tile < unit.col1 && row[j].unit == first.unit; ++j) part.col1 = std::min(unit.col1, row[j].col1);
      if (part.col0 >= part.col1) continue;
      if (path == Path::kThin) {
        run_thin(kernels, args, part);
      } else if (shallow) {
        run_shallow(kernels, args, part);
      } else {
        run_rect(kernels, args, part, cube ? kernels.tile_strips : 1);
      }
    }
  }
}

}  // namespace

const char* gemm_path(const Runtime& rt, const GemmArgs& args, const TilePlan& plan) {
  switch (path_of(*rt.kernels, args, plan)) {
    case Path::kThin:
      return "thin";
    case Path::kGemv:
      return "gemv";
    case Path::kShallow:
      return "shallow";
    case Path::kTile:
      break;
  }
  return "tile";
}

void gemm(const Runtime& rt, const GemmArgs& args, const TilePlan& plan) {
  const Grid grid = make_grid(rt, args);
  const size_t units = grid.threads() * grid.units;
  if (units == 1) return run_unit(rt, args, plan, {0, grid.m, 0, grid.n});
  parallel_for(units, static_cast<int>(grid.threads()), [&](size_t index) {
    const Rect unit = grid.unit(index);
    if (unit.row0 < unit.row1 && unit.col0 < unit.col1) run_unit(rt, args, plan, unit);
  });
}

}  // namespace ek
