// Depthwise convolution: the dot product runs over taps, lanes are channels.
#include <algorithm>

#include "base/checked.h"
#include "conv/conv.h"
#include "conv/source.h"
#include "conv/window.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Work below which a second thread costs more than it brings; memory bound, a multiply-add costs more than in a GEMM.
constexpr double kSerialMacs = 2e6 / 16;
/// Output pixels whose row pointers are looked up before the kernel runs over them.
constexpr size_t kRun = 16;

size_t table_bytes(const ConvArgs& args) {
  return round_up(round_up(args.window.taps(), 4) * kRun * sizeof(uint8_t*), kLine);
}

}  // namespace

size_t depthwise_scratch_bytes(const Runtime& rt, const ConvArgs& args) {
  const Tasks tasks = split_work(rt, args.window.pixels(), kRun);
  return source_bytes(rt, args, args.in_c) + tasks.count * table_bytes(args);
}

void depthwise_conv(const Runtime& rt, const ConvArgs& args, uint8_t* scratch) {
  const Source source = make_source(rt, args, args.in_c, scratch);
  const size_t pixels = args.window.pixels(), quads = ceil_div(args.window.taps(), 4), table = table_bytes(args);
  const Tasks tasks = split_work(rt, pixels, kRun);
  const int threads = conv_macs(args) < kSerialMacs ? 1 : rt.threads;
  const size_t row_bytes = args.out_c * item_bytes(args.epilogue);
  parallel_for(tasks.count, threads, [&](size_t task) {
    const uint8_t** pointers = reinterpret_cast<const uint8_t**>(source.rest + task * table);
    std::fill(pointers, pointers + kRun * quads * 4, source.zeros);  // taps that only fill up the last quad stay so
    DepthwiseRow row{};
    row.taps = pointers;
    row.quads = quads;
    row.channels = args.out_c;
    row.weights = reinterpret_cast<const int8_t*>(args.weights);
    row.init = args.init;
    row.out_ld = row_bytes;
    const size_t begin = task * tasks.per_task, end = std::min(pixels, begin + tasks.per_task);
    for (row.row = begin; row.row < end; row.row += row.pixels) {
      row.pixels = std::min(kRun, end - row.row);
      fill_row_pointers(args.window, row.row, row.pixels, source.x, args.in_c, source.zeros, {pointers, 1, quads * 4});
      row.out = args.y + row.row * row_bytes;
      rt.kernels->depthwise_row(row, args.epilogue);
    }
    count_row(rt, Row::kDepthwiseRow);
  });
}

}  // namespace ek
