#include "gemm/grid.h"

#include <algorithm>

#include "base/checked.h"
#include "cpu/machine.h"

namespace ek {
namespace {

/// Multiply-adds in the time that one value of C takes to be stored.
constexpr size_t kStoreMacs = 24;
/// Work of one unit that idle threads may take from a busy one, in what a thread costs.
constexpr double kWakesPerUnit = 4;

}  // namespace

size_t Grid::row(size_t i, size_t parts) const { return std::min(m, ceil_div(m, tile_rows) * i / parts * tile_rows); }

size_t Grid::col(size_t i, size_t parts) const { return std::min(n, ceil_div(n, kPanel) * i / parts * kPanel); }

Rect Grid::unit(size_t index) const {
  const size_t region = index / units, i = region / across, j = region % across, piece = index % units;
  const bool rows_are_longer = m / down >= n / across;
  if (rows_are_longer) {
    return {row(i * units + piece, down * units), row(i * units + piece + 1, down * units), col(j, across),
            col(j + 1, across)};
  }
  return {row(i, down), row(i + 1, down), col(j * units + piece, across * units),
          col(j * units + piece + 1, across * units)};
}

Grid make_grid(const Runtime& rt, const GemmArgs& args, const Path& path) {
  Grid grid;
  grid.tile_rows = rt.kernels->tile_rows;
  grid.m = args.m;
  grid.n = args.b.shape.n;
  if (rt.threads <= 1) return grid;
  const double macs = static_cast<double>(grid.m) * static_cast<double>(round_up(grid.n, kStrip)) *
                      static_cast<double>(args.b.shape.taps * args.b.shape.k_per_tap + kStoreMacs);
  const double us = macs / macs_per_us(rt.kernels->isa);
  if (!worth_a_thread(us)) return grid;
  const size_t tiles = ceil_div(grid.m, grid.tile_rows), panels = ceil_div(grid.n, kPanel);
  const size_t most_across = path.panels == 0 ? panels : std::max<size_t>(1, grid.n / kPanel / path.panels);
  const size_t threads = std::min(static_cast<size_t>(rt.threads), tiles * most_across);
  // The grid whose largest region has the fewest tiles. Columns are shared out only where rows cannot be: two threads
  // that write to the same pages of C fetch each other's lines.
  constexpr double kColumnPenalty = 1.04;
  double least = 0;
  for (size_t across = 1; across <= threads; ++across) {
    if (threads % across != 0 || across > most_across) continue;
    const double largest = static_cast<double>(ceil_div(tiles, threads / across) * ceil_div(panels, across));
    const double cost = across == 1 ? largest : largest * kColumnPenalty;
    if (across > 1 && cost >= least) continue;
    least = cost;
    grid.down = threads / across;
    grid.across = across;
  }
  if (threads == 1) return grid;
  const double units = us / (kWakesPerUnit * machine().wake_us) / static_cast<double>(threads);
  grid.units = static_cast<size_t>(std::clamp(units, 1.0, 4.0));
  if (path.panels != 0) grid.units = std::min(grid.units, most_across / grid.across);
  return grid;
}

}  // namespace ek
