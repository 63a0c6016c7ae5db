#include "conv/conv.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/status.h"
#include "conv/window.h"
#include "gemm/gemm.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;
/// Packed weights that stay in L2 beside the activations while a chunk of pixels passes over them.
constexpr size_t kWeightBlockBytes = size_t{512} << 10;
/// Work below which a second thread costs more than it brings.
constexpr double kSerialMacs = 2e6;

/// How the output pixels are shared out.
struct Tasks {
  size_t count, pixels_per_task;
};

Tasks split_pixels(const Runtime& rt, size_t pixels, size_t granule) {
  const size_t wanted = rt.threads <= 1 ? 1 : 4 * static_cast<size_t>(rt.threads);
  const size_t per_task = std::max(granule, round_up(ceil_div(pixels, wanted), granule));
  return {ceil_div(pixels, per_task), per_task};
}

bool needs_flip(const Runtime& rt, const ConvArgs& args) { return args.x_q.sign != rt.kernels->native_sign; }

size_t input_bytes(const ConvArgs& args) { return args.window.batch * args.window.in_h * args.window.in_w * args.in_c; }

/// What both kinds of convolution need before their loops: the input in native sign, and a pixel of zero points.
struct Source {
  const uint8_t* x;
  const uint8_t* zeros;
  uint8_t* rest;  // scratch that is left
};

size_t source_bytes(const Runtime& rt, const ConvArgs& args) {
  return round_up(args.in_c, kLine) + (needs_flip(rt, args) ? round_up(input_bytes(args), kLine) : 0);
}

Source make_source(const Runtime& rt, const ConvArgs& args, uint8_t* scratch) {
  const bool flip = needs_flip(rt, args);
  const int32_t zero_point = args.x_q.zero_point;
  std::memset(scratch, static_cast<uint8_t>(zero_point) ^ (flip ? 0x80 : 0), args.in_c);
  uint8_t* rest = scratch + round_up(args.in_c, kLine);
  if (!flip) return {args.x, scratch, rest};
  const size_t bytes = input_bytes(args);
  constexpr size_t kChunk = 65536;
  parallel_for(ceil_div(bytes, kChunk), rt.threads, [&](size_t task) {
    const size_t at = task * kChunk;
    rt.kernels->flip_sign(args.x + at, std::min(kChunk, bytes - at), rest + at);
    count_row(rt, Row::kFlipSign);
  });
  return {rest, scratch, rest + round_up(bytes, kLine)};
}

size_t item_bytes(const Epilogue& e) { return e.kind == OutKind::kQuantized ? 1 : 4; }

/// Thin input channels (3 of an image) would leave most of every k-quad to a byte-wise tail: the pixels under a window
/// are copied side by side instead, each padded to whole quads, and the taps become one run of k.
bool gathers(size_t group_in) { return group_in % 4 != 0 && group_in < kStrip; }

size_t gathered_bytes(const ConvArgs& args) {
  const size_t group_in = args.in_c / args.groups;
  return gathers(group_in) ? round_up(kMaxTileRows * args.window.taps() * round_up(group_in, 4), kLine) : 0;
}

/// Copies `n` < 16 bytes and zeros up to whole quads; reads no byte past them.
inline void copy_quads(const uint8_t* from, size_t n, uint8_t* to) {
  size_t i = 0;
  for (; i + 4 <= n; i += 4) std::memcpy(to + i, from + i, 4);
  uint32_t quad = from[i];
  if (n - i > 1) quad |= static_cast<uint32_t>(from[i + 1]) << 8;
  if (n - i > 2) quad |= static_cast<uint32_t>(from[i + 2]) << 16;
  std::memcpy(to + i, &quad, 4);  // little-endian, as every ISA here is
}

/// One chunk of pixels of one group, all output channels of the group.
void conv_chunk(const Kernels& kernels, const ConvArgs& args, const Source& source, size_t group, size_t begin,
                size_t end, const uint8_t** pointers, uint8_t* gathered) {
  const Window& window = args.window;
  const size_t group_in = args.in_c / args.groups, group_out = args.out_c / args.groups;
  const PackedShape shape{group_out, window.taps(), group_in};
  size_t group_bytes = 0;
  const bool fits = shape.bytes(&group_bytes);
  EK_ASSERT(fits);
  (void)fits;
  const PackedView weights{shape, args.weights + group * round_up(group_bytes, kLine)};
  const size_t padded_out = shape.padded_n(), item = item_bytes(args.epilogue), ldc = args.out_c * item;
  const size_t panel_bytes = std::max<size_t>(1, kPanel * shape.quads() * 4);
  const size_t block_panels = std::max<size_t>(1, kWeightBlockBytes / panel_bytes);

  Epilogue epilogue = args.epilogue;
  if (epilogue.multiplier != nullptr) epilogue.multiplier += group * padded_out;
  if (epilogue.bias != nullptr) epilogue.bias += group * padded_out;
  if (epilogue.residual != nullptr) epilogue.residual += group * group_out;

  GemmTile tile{};
  const bool gather = gathers(group_in);
  const size_t tap_bytes = round_up(group_in, 4), row_bytes = window.taps() * tap_bytes;
  tile.a = pointers;
  tile.taps = gather ? 1 : window.taps();
  tile.k = gather ? row_bytes : group_in;
  tile.ldc = ldc;
  for (size_t panel0 = 0; panel0 < shape.panels(); panel0 += block_panels) {
    const size_t panel1 = std::min(shape.panels(), panel0 + block_panels);
    for (size_t pixel = begin; pixel < end; pixel += tile.rows) {
      tile.rows = std::min(kernels.tile_rows, end - pixel);
      tile.row0 = pixel;
      const uint8_t* x = source.x + group * group_in;
      fill_row_pointers(window, pixel, tile.rows, x, args.in_c, source.zeros, {pointers, tile.rows, 1});
      if (gather) {
        for (size_t r = 0; r < tile.rows; ++r) {
          for (size_t tap = 0; tap < window.taps(); ++tap) {
            copy_quads(pointers[tap * tile.rows + r], group_in, gathered + r * row_bytes + tap * tap_bytes);
          }
        }
        for (size_t r = 0; r < tile.rows; ++r) pointers[r] = gathered + r * row_bytes;
      }
      for (size_t panel = panel0; panel < panel1; ++panel) {
        const size_t panel_end = std::min((panel + 1) * kPanel, group_out);
        tile.b_step = shape.panel_width(panel) * 4;
        for (size_t col = panel * kPanel; col < panel_end; col += tile.strips * kStrip) {
          tile.strips = std::min(kernels.tile_strips, ceil_div(panel_end - col, kStrip));
          tile.cols = std::min(tile.strips * kStrip, panel_end - col);
          tile.b = weights.panel(panel) + col % kPanel * 4;
          tile.init = args.init + group * padded_out + col;
          tile.col0 = col;
          tile.c = args.y + pixel * ldc + (group * group_out + col) * item;
          kernels.gemm_tile(tile, epilogue);
        }
      }
    }
  }
}

double conv_macs(const ConvArgs& args) {
  return static_cast<double>(args.window.pixels()) * static_cast<double>(args.window.taps()) *
         static_cast<double>(args.in_c / args.groups) * static_cast<double>(args.out_c);
}

size_t pointer_bytes(size_t taps, size_t rows) { return round_up(taps * rows * sizeof(uint8_t*), kLine); }

}  // namespace

size_t conv_scratch_bytes(const Runtime& rt, const ConvArgs& args) {
  const Tasks tasks = split_pixels(rt, args.window.pixels(), rt.kernels->tile_rows);
  const size_t per_task = pointer_bytes(args.window.taps(), kMaxTileRows) + gathered_bytes(args);
  return source_bytes(rt, args) + tasks.count * args.groups * per_task;
}

void conv(const Runtime& rt, const ConvArgs& args, uint8_t* scratch) {
  const Source source = make_source(rt, args, scratch);
  const size_t pixels = args.window.pixels(), table = pointer_bytes(args.window.taps(), kMaxTileRows);
  const size_t per_task = table + gathered_bytes(args);
  const Tasks tasks = split_pixels(rt, pixels, rt.kernels->tile_rows);
  const int threads = conv_macs(args) < kSerialMacs ? 1 : rt.threads;
  parallel_for(tasks.count * args.groups, threads, [&](size_t task) {
    const size_t group = task / tasks.count, begin = task % tasks.count * tasks.pixels_per_task;
    uint8_t* slot = source.rest + task * per_task;
    const uint8_t** pointers = reinterpret_cast<const uint8_t**>(slot);
    conv_chunk(*rt.kernels, args, source, group, begin, std::min(pixels, begin + tasks.pixels_per_task), pointers,
               slot + table);
    count_row(rt, Row::kConvTile);
  });
}

/// Output pixels whose row pointers are looked up before the kernel runs over them.
constexpr size_t kRun = 16;

size_t depthwise_scratch_bytes(const Runtime& rt, const ConvArgs& args) {
  const Tasks tasks = split_pixels(rt, args.window.pixels(), kRun);
  return source_bytes(rt, args) + tasks.count * pointer_bytes(round_up(args.window.taps(), 4), kRun);
}

void depthwise_conv(const Runtime& rt, const ConvArgs& args, uint8_t* scratch) {
  const Source source = make_source(rt, args, scratch);
  const size_t pixels = args.window.pixels(), taps = args.window.taps(), quads = ceil_div(taps, 4);
  const size_t table = pointer_bytes(quads * 4, kRun);
  const Tasks tasks = split_pixels(rt, pixels, kRun);
  const int threads = conv_macs(args) < kSerialMacs / 16 ? 1 : rt.threads;  // memory bound: a multiply-add costs more
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
    const size_t begin = task * tasks.pixels_per_task, end = std::min(pixels, begin + tasks.pixels_per_task);
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
