// Depthwise convolution: lanes are channels, the dot product runs over taps.
#include <algorithm>

#include "base/checked.h"
#include "conv/conv.h"
#include "conv/depthwise_runs.h"
#include "conv/source.h"
#include "conv/window.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// What a multiply-add takes, in those of a matrix product: lanes hold one tap's channels, and pixels are looked up.
constexpr double kCost3x3 = 1.75, kCostRuns = 2.5, kCost = 5;
/// Few: every task of the 3x3 kernel brings the weights into order for itself.
constexpr size_t kTasksPerThread = 2;
/// Output pixels whose row pointers are looked up before the kernel runs over them.
constexpr size_t kRun = 16;
/// The 3x3 kernel passes over a chunk of rows block by block of channels: what stays in L2, few enough for the stack.
constexpr size_t kMaxChunkRows = 64;

bool is_3x3(const ConvArgs& args) {
  const Window& w = args.window;
  const bool wide = args.out_c >= 64 && args.out_c % kStrip == 0;
  const bool pairs = args.out_c == 32 && w.stride_w == 1 && w.out_w % 2 == 0;
  return w.kernel_h == 3 && w.kernel_w == 3 && w.dilation_h == 1 && w.dilation_w == 1 && w.stride_w <= 2 &&
         (wide || pairs) && args.epilogue.kind == OutKind::kQuantized && args.epilogue.residual == nullptr;
}

size_t zeros_bytes(const ConvArgs& args) {
  return by_runs(args) ? runs_zeros_bytes(args) : std::max<size_t>(args.in_c, 64);
}

size_t rows_of(const ConvArgs& args) { return args.window.batch * args.window.out_h; }

size_t table_bytes(const ConvArgs& args) {
  return round_up(round_up(args.window.taps(), 4) * kRun * sizeof(uint8_t*), kLine);
}

/// Rows [begin, end) of the output, counted over the batch.
void run_3x3(const Runtime& rt, const ConvArgs& args, const Source& source, size_t begin, size_t end) {
  const Window& w = args.window;
  const size_t line = w.in_w * args.in_c;
  const size_t chunk_bytes = resident_bytes() / 4;  // of the image
  const size_t chunk = std::clamp<size_t>(chunk_bytes / std::max<size_t>(1, w.stride_h * line), 1, kMaxChunkRows);
  const uint8_t* pointers[kMaxChunkRows * 3];
  Depthwise3x3 rows{};
  rows.rows = pointers;
  rows.zeros = source.zeros;
  rows.in_w = w.in_w;
  rows.out_w = w.out_w;
  rows.pad_left = w.pad_left;
  rows.stride = w.stride_w;
  rows.channels = args.out_c;
  rows.weights = reinterpret_cast<const int8_t*>(args.weights);
  rows.init = args.init;
  for (size_t row = begin; row < end; row += rows.out_rows) {
    rows.out_rows = std::min(chunk, end - row);
    for (size_t r = 0; r < rows.out_rows; ++r) {
      const size_t batch = (row + r) / w.out_h, out_y = row + r - batch * w.out_h;
      for (size_t k = 0; k < 3; ++k) {
        const size_t y = out_y * w.stride_h + k - w.pad_top;  // negative: past every height
        pointers[r * 3 + k] = y < w.in_h ? source.x + (batch * w.in_h + y) * line : nullptr;
      }
    }
    rows.out = args.y + row * w.out_w * args.out_c;
    rt.kernels->depthwise_3x3(rows, args.epilogue);
  }
}

/// Output pixels [begin, end) under a kernel of any shape.
void run_any(const Runtime& rt, const ConvArgs& args, const Source& source, size_t begin, size_t end, uint8_t* slot) {
  const size_t quads = ceil_div(args.window.taps(), 4);
  const uint8_t** pointers = reinterpret_cast<const uint8_t**>(slot);
  std::fill(pointers, pointers + kRun * quads * 4, source.zeros);  // taps that only fill up the last quad stay so
  DepthwiseRow row{};
  row.taps = pointers;
  row.quads = quads;
  row.channels = args.out_c;
  row.weights = reinterpret_cast<const int8_t*>(args.weights);
  row.init = args.init;
  row.out_ld = args.out_c * item_bytes(args.epilogue);
  for (row.row = begin; row.row < end; row.row += row.pixels) {
    row.pixels = std::min(kRun, end - row.row);
    fill_row_pointers(args.window, row.row, row.pixels, source.x, args.in_c, source.zeros, {pointers, 1, quads * 4});
    row.out = args.y + row.row * row.out_ld;
    rt.kernels->depthwise_row(row, args.epilogue);
  }
}

}  // namespace

size_t depthwise_scratch_bytes(const Runtime& rt, const ConvArgs& args) {
  const size_t before = source_bytes(rt, args, zeros_bytes(args));
  if (is_3x3(args)) return before;
  const bool runs = by_runs(args);
  const size_t units = runs ? rows_of(args) : args.window.pixels();
  const Tasks tasks = split_work(rt.threads, kTasksPerThread, units, runs ? 1 : kRun);
  return before + (runs ? runs_bytes(args, tasks.count) : tasks.count * table_bytes(args));
}

void depthwise_conv(const Runtime& rt, const ConvArgs& args, uint8_t* scratch) {
  const Source source = make_source(rt, args, zeros_bytes(args), scratch);
  const bool whole = is_3x3(args), runs = !whole && by_runs(args), by_rows = whole || runs;
  const double us = conv_macs(args) * (whole ? kCost3x3 : runs ? kCostRuns : kCost) / macs_per_us(rt.kernels->isa);
  const int threads = worth_a_thread(us) ? rt.threads : 1;
  const size_t units = by_rows ? rows_of(args) : args.window.pixels();
  const Tasks tasks = split_work(threads, kTasksPerThread, units, by_rows ? 1 : kRun);
  if (runs) spread_runs(rt, args, source.rest);
  parallel_for(tasks.count, threads, [&](size_t task) {
    const size_t begin = task * tasks.per_task, end = std::min(units, begin + tasks.per_task);
    if (whole) {
      run_3x3(rt, args, source, begin, end);
    } else if (runs) {
      run_rows(rt, args, source, source.rest, task, begin, end);
    } else {
      run_any(rt, args, source, begin, end, source.rest + task * table_bytes(args));
    }
  });
}

}  // namespace ek
