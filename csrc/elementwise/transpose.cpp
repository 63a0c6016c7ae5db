// Transposition of four axes: of bytes that swap two runs of them here, of all else as of any number of axes.
#include <algorithm>
#include <utility>

#include "base/checked.h"
#include "cpu/machine.h"
#include "elementwise/elementwise.h"
#include "elementwise/moves.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Rows and columns of a task: whole cache lines on both sides, which stay in L1.
constexpr size_t kTaskRows = 64, kTaskCols = 256;
/// What one core turns in a microsecond.
constexpr double kBytesPerUs = 29'000;

/// y is x with its axes in the order of perm. If that swaps two runs of axes behind one that stays, (batch, rows, cols)
/// becomes (batch, cols, rows); axes of length 1 stand anywhere.
bool swaps_two_runs(const size_t x_shape[4], const int perm[4], size_t* batch, size_t* rows, size_t* cols) {
  int from[4] = {}, to[4] = {}, n = 0, m = 0;
  for (int i = 0; i < 4; ++i) {
    if (x_shape[i] != 1) from[n++] = i;
    if (x_shape[perm[i]] != 1) to[m++] = perm[i];
  }
  int at = 0;
  for (*batch = *rows = *cols = 1; at < n && from[at] == to[at]; ++at) *batch *= x_shape[from[at]];
  if (at == n) std::swap(*batch, *cols);  // nothing moves: one row
  int split = at;
  while (split < n && from[split] != to[at]) *rows *= x_shape[from[split++]];
  for (int i = split; i < n; ++i) *cols *= x_shape[from[i]];
  for (int i = at; i < n; ++i) {
    if (to[i] != from[i - at < n - split ? i - at + split : i - (n - split)]) return false;
  }
  return true;
}

}  // namespace

void transpose4(const Runtime& rt, const uint8_t* x, const size_t x_shape[4], const int perm[4], size_t item,
                uint8_t* y) {
  size_t batch = 0, rows = 0, cols = 0;
  if (item == 1 && swaps_two_runs(x_shape, perm, &batch, &rows, &cols)) {
    const size_t down = ceil_div(rows, kTaskRows), across = ceil_div(cols, kTaskCols);
    const int threads = worth_a_thread(static_cast<double>(batch * rows * cols) / kBytesPerUs) ? rt.threads : 1;
    parallel_for(batch * down * across, threads, [&](size_t task) {
      const size_t image = task / (down * across) * rows * cols, at = task % (down * across);
      // Threads part the longer axis: pixels, as those do who wrote x and who will read y.
      const size_t r = (rows > cols ? at / across : at % down) * kTaskRows;
      const size_t c = (rows > cols ? at % across : at / down) * kTaskCols;
      rt.kernels->transpose(x + image + r * cols + c, std::min(kTaskRows, rows - r), std::min(kTaskCols, cols - c),
                            cols, y + image + c * rows + r, rows);
    });
    return;
  }
  const size_t axes[4] = {static_cast<size_t>(perm[0]), static_cast<size_t>(perm[1]), static_cast<size_t>(perm[2]),
                          static_cast<size_t>(perm[3])};
  permute(rt, x, 4, x_shape, axes, item, y);
}

}  // namespace ek
