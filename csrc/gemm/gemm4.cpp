#include "gemm/gemm4.h"

#include <algorithm>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// The quantized rows as they lie in the scratch memory.
struct Rows {
  int8_t* q;       // [m][planes][row_stride]
  float* scale;    // [tiles][runs][rows of the tile]
  int32_t* start;  // [tiles][groups][rows of the tile]
};

size_t runs_of(const PackedShape4& shape) { return ceil_div(shape.k, kW4Run); }

/// Bytes from one quantized row to the next: k in whole vectors, or groups.
size_t row_stride(const PackedShape4& shape) { return round_up(shape.octets() * kOctet, kStrip); }

/// Bytes of a value of x: those of a row lie in so many rows.
size_t planes_of(const Gemm4Args& args) { return args.wide ? 2 : 1; }

Rows rows_in(const Gemm4Args& args, uint8_t* scratch) {
  const PackedShape4& shape = args.b.shape;
  int8_t* const q = reinterpret_cast<int8_t*>(scratch);
  float* const scale = reinterpret_cast<float*>(q + args.m * planes_of(args) * row_stride(shape));
  return {q, scale, reinterpret_cast<int32_t*>(scale + args.m * runs_of(shape))};
}

/// Values that a thread quantizes before a second one pays.
constexpr size_t kValuesPerTask = 32768;
/// Threads are woken twice, for the rows and for the product.
constexpr double kWakes = 2;
constexpr size_t kTasksPerThread = 8;
/// The same for one row, whose streams from memory start anew with every task.
constexpr size_t kGemvTasksPerThread = 2;
/// Where memory is the limit, the first tile is as low as one pass over the whole panel allows.
constexpr size_t kFewRows = 10, kFewTileRows = 4;

size_t most_tile_rows(const Runtime& rt, const Gemm4Args& args) {
  if (args.b.shape.ternary) return args.m <= kW2FewRows ? 1 : kW2TileRows;
  const size_t tallest = rt.kernels->w4_tile_rows;
  return (args.m <= kFewRows ? std::min(kFewTileRows, tallest) : tallest) / planes_of(args);
}

/// `height` is that of a register tile; the last one may be lower.
void quantize_rows(const Runtime& rt, const Gemm4Args& args, const Rows& rows, size_t height) {
  const PackedShape4& shape = args.b.shape;
  const size_t ldq = row_stride(shape), groups = shape.groups(), runs = runs_of(shape), planes = planes_of(args);
  const size_t rows_per_task = std::max<size_t>(1, kValuesPerTask / std::max<size_t>(1, shape.k));
  parallel_for(ceil_div(args.m, rows_per_task), rt.threads, [&](size_t task) {
    const size_t end = std::min(args.m, (task + 1) * rows_per_task);
    for (size_t m = task * rows_per_task; m < end; ++m) {
      const size_t tile = m / height * height, stride = std::min(height, args.m - tile);
      int8_t* const q = rows.q + m * planes * ldq;
      rt.kernels->w4_quantize({args.x + m * args.ldx, shape.k, shape.group, args.scale_per_row, args.b.unit, q,
                               rows.scale + tile * runs + m - tile, rows.start + tile * groups + m - tile, stride,
                               args.wide ? q + ldq : nullptr});
      const size_t written = round_up(shape.k, kStrip);
      if (!args.wide) std::fill(q + written, q + ldq, int8_t{0});
    }
  });
}

}  // namespace

bool gemm4_scratch_bytes(const Gemm4Args& args, size_t* out) {
  size_t padded = 0, bytes = 0;
  // Scales and sums take 8 bytes for at least one group, so one more helping of the rows' bytes has room for both.
  if (!checked_add(args.b.shape.k, kW4Run, &padded) || !checked_mul(args.m, padded, &bytes) ||
      !checked_mul(bytes, planes_of(args) + 1, &bytes)) {
    return false;
  }
  *out =
      args.m * (planes_of(args) * row_stride(args.b.shape) + args.b.shape.groups() * (sizeof(float) + sizeof(int32_t)));
  return true;
}

void gemm4(const Runtime& rt, const Gemm4Args& args, uint8_t* scratch) {
  if (args.m == 0 || args.b.shape.n == 0) return;
  const PackedShape4& shape = args.b.shape;
  const size_t panels = shape.panels(), panel_bytes = shape.panel_bytes();
  const size_t groups = shape.groups(), runs = runs_of(shape);
  const Rows rows = rows_in(args, scratch);
  // Row tiles of equal height: every one of them passes over the panel, which lies in L2 after the first.
  const size_t planes = planes_of(args);
  const size_t tiles = ceil_div(args.m, most_tile_rows(rt, args)), height = ceil_div(args.m, tiles);
  const auto gemv = shape.ternary ? rt.kernels->w2_gemv : rt.kernels->w4_gemv;
  const auto multiply = shape.ternary ? rt.kernels->w2_tile : rt.kernels->w4_tile;
  quantize_rows(rt, args, rows, height);

  // A task is one range of panels, so one stretch of memory; there are some for each thread, because threads start at
  // different times. Rows are cut where panels are few.
  const double macs = static_cast<double>(args.m) * static_cast<double>(shape.n) * static_cast<double>(shape.k);
  const bool serial = rt.threads == 1 || !worth_a_thread(macs / macs_per_us(rt.kernels->isa) / kWakes);
  const size_t per_thread = args.m == 1 ? kGemvTasksPerThread : kTasksPerThread;
  const size_t tasks = serial ? 1 : per_thread * static_cast<size_t>(rt.threads);
  const size_t by_panels = std::min(tasks, panels);
  const size_t by_rows = std::min(ceil_div(tasks, by_panels), tiles);
  parallel_for(by_panels * by_rows, rt.threads, [&](size_t task) {
    const size_t part = task / by_rows, row_part = task % by_rows;
    const size_t row0 = row_part * tiles / by_rows * height;
    const size_t row1 = std::min(args.m, (row_part + 1) * tiles / by_rows * height);
    const auto tile_of = [&](size_t panel, size_t row) {
      const size_t col = panel * kPanel;
      W4Tile tile{};
      tile.ldq = row_stride(shape);
      tile.q = rows.q + row * planes * tile.ldq;
      tile.wide = args.wide;
      tile.scale = rows.scale + row * runs;
      tile.start = rows.start + row * groups;
      tile.rows = std::min(height, row1 - row);
      tile.octets = shape.octets();
      tile.octets_per_group = shape.group / kOctet;
      tile.panel = args.b.data + panel * panel_bytes;
      tile.has_offset = shape.asymmetric;
      tile.c = static_cast<uint8_t*>(args.c) + row * args.ldc + out_bytes(args.epilogue, col);
      tile.ldc = args.ldc;
      tile.cols = std::min(kPanel, shape.n - col);
      tile.row0 = row;
      tile.col0 = col;
      return tile;
    };
    size_t panel = part * panels / by_panels;
    const size_t end = (part + 1) * panels / by_panels;
    if (args.m == 1 && !args.wide) {  // the first half of the panels beside the second
      const size_t each = (end - panel) / kW4GemvPanels;
      for (size_t i = 0; i < each; ++i) {
        W4Tile side_by_side[kW4GemvPanels];
        for (size_t j = 0; j < kW4GemvPanels; ++j) side_by_side[j] = tile_of(panel + j * each + i, 0);
        gemv(side_by_side, args.epilogue);
      }
      panel += each * kW4GemvPanels;
    }
    for (; panel < end; ++panel) {
      for (size_t row = row0; row < row1; row += height) multiply(tile_of(panel, row), args.epilogue);
    }
  });
}

}  // namespace ek
