// How threads share a product.
#pragma once

#include "gemm/paths.h"

namespace ek {

/// C as a grid of equal regions, one a thread, each a row of units: a thread finds its own part of the operands in its
/// caches from call to call, and who is done takes units from the others.
struct Grid {
  size_t down = 1, across = 1, units = 1;  // regions along M and N; units of a region
  size_t tile_rows;
  size_t m, n;

  size_t threads() const { return down * across; }
  Rect unit(size_t index) const;

 private:
  size_t row(size_t i, size_t parts) const;
  size_t col(size_t i, size_t parts) const;
};

Grid make_grid(const Runtime& rt, const GemmArgs& args, const Path& path);

}  // namespace ek
