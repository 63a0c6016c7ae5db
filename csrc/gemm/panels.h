// The walk over rows and panels that every path with tiles takes.
#pragma once

#include <algorithm>

#include "base/checked.h"
#include "cpu/machine.h"
#include "gemm/gemm.h"
#include "gemm/paths.h"

namespace ek {

/// What all tiles of a product share.
inline GemmTile tile_over(const Kernels& kernels, const GemmArgs& args) {
  GemmTile tile{};
  tile.taps = args.b.shape.taps;
  tile.k = args.b.shape.k_per_tap;
  tile.flip = args.a_sign != kernels.native_sign;
  tile.ldc = args.ldc;
  return tile;
}

/// Sets the tile's rows. `room` is for the pointers, where the product has no table.
inline void set_rows(const GemmArgs& args, size_t row0, size_t rows, const uint8_t** room, GemmTile* tile) {
  tile->row0 = row0;
  tile->rows = rows;
  if (args.table != nullptr) {
    args.table->fill(args.table->context, row0, rows);
    tile->a = args.table->pointers;
    return;
  }
  for (size_t r = 0; r < rows; ++r) room[r] = args.a + (row0 + r) * args.lda;
  tile->a = room;
}

/// Sets the tile's columns, and where they begin in its first row of C.
inline void set_columns(const GemmArgs& args, size_t col, size_t cols, GemmTile* tile) {
  const size_t panel = col / kPanel;
  tile->b = args.b.panel(panel) + col % kPanel * 4;
  tile->b_step = args.b.shape.panel_width(panel) * 4;
  tile->init = args.init + col;
  tile->col0 = col;
  tile->cols = cols;
  tile->strips = ceil_div(cols, kStrip);
  tile->c = static_cast<uint8_t*>(args.c) + tile->row0 * args.ldc + out_bytes(args.epilogue, col);
}

/// Calls run(tile) for tiles of at most kRows x `strips` over `rect`: so many panels at a time as stay in the L2 while
/// rows pass over them. kEven: tiles of even height, the higher ones first: 49 rows are four tiles of six and five of
/// five, not eight of six and one of one.
template <size_t kRows, bool kEven, typename Run>
void walk_panels(const GemmArgs& args, const Rect& rect, size_t rows, size_t strips, GemmTile tile, Run&& run) {
  const PackedShape& shape = args.b.shape;
  const uint8_t* room[kRows];
  const size_t height = rect.row1 - rect.row0, tiles = ceil_div(height, rows);
  const size_t low = kEven ? height / tiles : rows, high_tiles = kEven ? height % tiles : 0;
  const size_t panel_bytes = kPanel * shape.quads() * 4, padded_n = shape.padded_n(),
               pair = out_bytes(args.epilogue, 2);
  const size_t panels_at_once = std::max<size_t>(1, resident_bytes() / std::max<size_t>(1, panel_bytes));
  for (size_t first = rect.col0; first < rect.col1; first += panels_at_once * kPanel) {
    const size_t last = std::min(rect.col1, first + panels_at_once * kPanel);
    for (size_t i = 0, row = rect.row0; i < tiles; ++i, row += tile.rows) {
      set_rows(args, row, std::min(i < high_tiles ? low + 1 : low, rect.row1 - row), room, &tile);
      uint8_t* const c = static_cast<uint8_t*>(args.c) + row * args.ldc;
      // As set_columns() has it, with what the tiles of a row share worked out once: small products would show it.
      for (size_t panel = first / kPanel; panel * kPanel < last; ++panel) {
        const size_t begin = panel * kPanel, end = std::min(last, begin + kPanel);
        const int8_t* const b = reinterpret_cast<const int8_t*>(args.b.data) + panel * panel_bytes;
        tile.b_step = std::min(kPanel, padded_n - begin) * 4;
        for (size_t col = begin; col < end; col += tile.cols) {
          tile.cols = std::min(strips * kStrip, end - col);
          tile.strips = ceil_div(tile.cols, kStrip);
          tile.b = b + (col - begin) * 4;
          tile.init = args.init + col;
          tile.col0 = col;
          tile.c = c + col * pair / 2;
          run(tile);
        }
      }
    }
  }
}

}  // namespace ek
