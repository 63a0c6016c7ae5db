#include "gemm/gemm.h"

#include <algorithm>

#include "base/checked.h"
#include "gemm/grid.h"
#include "gemm/paths.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Block by block what lies in `unit`. Neighbors of one kind are one part: along a row of C the caches know what comes
/// next. All whole blocks of a row are of one kind; what is left at its end may be of another.
void run_unit(const Runtime& rt, const GemmArgs& args, const Path& path, const Rect& unit) {
  const size_t n = args.b.shape.n, k = args.b.shape.k_per_tap, whole = n / kMacroTile * kMacroTile;
  const auto unit_of = [&](size_t rows, size_t cols) { return args.unit ? *args.unit : host_unit(rows, cols, k); };
  for (size_t row0 = unit.row0 / kMacroTile * kMacroTile; row0 < unit.row1; row0 += kMacroTile) {
    const size_t row1 = std::min(args.m, row0 + kMacroTile), rows = row1 - row0;
    Rect part = {std::max(unit.row0, row0), std::min(unit.row1, row1), unit.col0, 0};
    for (; part.col0 < unit.col1; part.col0 = part.col1) {
      const bool tail = part.col0 >= whole;
      const Unit kind = unit_of(rows, tail ? n - whole : kMacroTile);
      const bool to_end = tail || unit.col1 <= whole || unit_of(rows, n - whole) == kind;
      part.col1 = to_end ? unit.col1 : whole;
      path.run(*rt.kernels, args, part, kind == Unit::kCube ? rt.kernels->tile_strips : 1);
    }
  }
}

}  // namespace

const char* gemm_path(const Runtime& rt, const GemmArgs& args) { return path_of(*rt.kernels, args).name; }

std::vector<const char*> gemm_choices(const Runtime& rt, const GemmArgs& args) { return paths_for(*rt.kernels, args); }

void gemm(const Runtime& rt, const GemmArgs& args) {
  const Path& path = path_of(*rt.kernels, args);
  const Grid grid = make_grid(rt, args, path);
  const size_t units = grid.threads() * grid.units;
  if (units == 1) return run_unit(rt, args, path, {0, grid.m, 0, grid.n});
  parallel_for(units, static_cast<int>(grid.threads()), [&](size_t index) {
    const Rect unit = grid.unit(index);
    if (unit.row0 < unit.row1 && unit.col0 < unit.col1) run_unit(rt, args, path, unit);
  });
}

}  // namespace ek
