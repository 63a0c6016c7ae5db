#include "gemm/gemm.h"

#include <algorithm>

#include "base/checked.h"
#include "threads/pool.h"

namespace ek {
namespace {

bool needs_flip(const Kernels& kernels, const GemmArgs& args) { return args.a_sign != kernels.native_sign; }

size_t depth(const GemmArgs& args) { return args.b.shape.taps * args.b.shape.k_per_tap; }

/// Copies A with its sign flipped into `scratch`, dense rows; returns where A now is.
void flip_rows(const Runtime& rt, GemmArgs& args, uint8_t* scratch) {
  const size_t k = depth(args);
  constexpr size_t kRowsPerTask = 64;
  parallel_for(ceil_div(args.m, kRowsPerTask), args.m * k < 65536 ? 1 : rt.threads, [&](size_t task) {
    const size_t end = std::min(args.m, (task + 1) * kRowsPerTask);
    for (size_t row = task * kRowsPerTask; row < end; ++row) {
      rt.kernels->flip_sign(args.a + row * args.lda, k, scratch + row * k);
    }
    count_row(rt, Row::kFlipSign);
  });
  args.a = scratch;
  args.lda = k;
}

/// Rows [row0, row1) x columns [col0, col1) of C; col0 is a multiple of the strip.
void run_block(const Kernels& kernels, const GemmArgs& args, size_t row0, size_t row1, size_t col0, size_t col1,
               size_t max_strips) {
  const PackedShape& shape = args.b.shape;
  const uint8_t* rows[kMaxTileRows];
  GemmTile tile{};
  tile.a = rows;
  tile.taps = 1;
  tile.k = depth(args);
  tile.ldc = args.ldc;
  for (size_t row = row0; row < row1; row += tile.rows) {
    tile.rows = std::min(kernels.tile_rows, row1 - row);
    tile.row0 = row;
    for (size_t r = 0; r < tile.rows; ++r) rows[r] = args.a + (row + r) * args.lda;
    for (size_t col = col0; col < col1; col += tile.strips * kStrip) {
      const size_t panel = col / kPanel, in_panel = col % kPanel;
      const size_t panel_end = std::min((panel + 1) * kPanel, col1);
      tile.strips = std::min(max_strips, ceil_div(panel_end - col, kStrip));
      tile.cols = std::min(tile.strips * kStrip, panel_end - col);
      tile.b = args.b.panel(panel) + in_panel * 4;
      tile.b_step = shape.panel_width(panel) * 4;
      tile.init = args.init + col;
      tile.col0 = col;
      tile.c = static_cast<uint8_t*>(args.c) + row * args.ldc + out_bytes(args.epilogue, col);
      kernels.gemm_tile(tile, args.epilogue);
    }
  }
}

/// Work below which a second thread costs more than it brings (about 15 us of one core).
constexpr double kSerialMacs = 2e6;

}  // namespace

size_t gemm_scratch_bytes(const Kernels& kernels, const GemmArgs& args) {
  return needs_flip(kernels, args) ? round_up(args.m * depth(args), 64) : 0;
}

void gemm(const Runtime& rt, const GemmArgs& given, const TilePlan& plan, uint8_t* scratch) {
  const Kernels& kernels = *rt.kernels;
  GemmArgs args = given;
  if (needs_flip(kernels, args)) flip_rows(rt, args, scratch);

  const double macs = static_cast<double>(plan.m) * static_cast<double>(plan.n) * static_cast<double>(plan.k);
  const int threads = macs < kSerialMacs ? 1 : rt.threads;
  // Few blocks and several threads: cut each block along its longer side.
  const size_t wanted = threads == 1 ? 1 : 4 * static_cast<size_t>(threads);
  const size_t cuts = plan.blocks.empty() ? 1 : ceil_div(wanted, plan.blocks.size());

  parallel_for(plan.blocks.size() * cuts, threads, [&](size_t task) {
    const TileBlock& block = plan.blocks[task / cuts];
    const size_t piece = task % cuts;
    const bool cube = block.unit == Unit::kCube;
    size_t row0 = block.row0, row1 = block.row1, col0 = block.col0, col1 = block.col1;
    if (row1 - row0 >= cuts * kernels.tile_rows) {
      const size_t step = round_up(ceil_div(row1 - row0, cuts), kernels.tile_rows);
      row0 = std::min(row1, row0 + piece * step);
      row1 = std::min(row1, row0 + step);
    } else {
      const size_t step = round_up(ceil_div(col1 - col0, cuts), kPanel);
      col0 = std::min(col1, col0 + piece * step);
      col1 = std::min(col1, col0 + step);
    }
    if (row0 < row1 && col0 < col1) run_block(kernels, args, row0, row1, col0, col1, cube ? kernels.tile_strips : 1);
    if (piece == 0) count_row(rt, cube ? Row::kGemmCube : Row::kGemmVector);
  });
}

}  // namespace ek
