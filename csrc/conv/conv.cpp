// Indirect convolution: tiles of output pixels, each row of a tile a pointer per tap into the image.
//
// Runs       one row of the kernel reads neighboring pixels, which lie side by side: one run of kernel_w * in_c bytes
//            takes the place of kernel_w taps. Runs that leave the image are copied, zero points for what is outside.
// Thin input fewer than 16 channels that fill no whole k-quads (3 of an image) are always read as runs, against weights
//            that were brought into that order; a run then fills up its last quad with bytes that meet zero weights.
// Taps       whatever else is dilated or grouped: a pointer per tap.
#include "conv/conv.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "base/status.h"
#include "conv/source.h"
#include "conv/window.h"
#include "cpu/machine.h"
#include "gemm/paths.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Small tasks even out what a tile more or less makes.
constexpr size_t kTasksPerThread = 8;
/// What a multiply-add takes, in those of a matrix product: rows are looked up, and K is short.
constexpr double kCost = 2.5;

/// How one group of the convolution becomes a matrix product.
struct Plan {
  bool runs, thin;
  bool in_place;       // the bytes of a run lie side by side in the image
  PackedShape packed;  // of the weights that are given
  PackedShape shape;   // of the weights that are multiplied
  size_t taps, k;      // pointers per row of a tile, bytes that each is read for
  const Path* path;    // of the product
};

size_t packed_bytes(const PackedShape& shape) {
  size_t bytes = 0;
  const bool fits = shape.bytes(&bytes);
  EK_ASSERT(fits);
  static_cast<void>(fits);
  return round_up(bytes, kLine);
}

/// The product of one group, without the table of its rows.
GemmArgs product_of(const Kernels& kernels, const ConvArgs& args, const Plan& plan, const uint8_t* weights,
                    size_t group) {
  const size_t group_out = plan.shape.n, padded_out = plan.shape.padded_n(), item = item_bytes(args.epilogue);
  GemmArgs product;
  product.m = args.window.pixels();
  product.a_sign = kernels.native_sign;
  product.b = {{group_out, plan.taps, plan.k}, weights + group * packed_bytes(plan.shape)};
  product.init = args.init + group * padded_out;
  product.c = args.y + group * group_out * item;
  product.ldc = args.out_c * item;
  product.epilogue = args.epilogue;
  product.path = args.path;
  if (product.epilogue.multiplier != nullptr) product.epilogue.multiplier += group * padded_out;
  if (product.epilogue.bias != nullptr) product.epilogue.bias += group * padded_out;
  if (product.epilogue.residual != nullptr) product.epilogue.residual += group * group_out;
  return product;
}

Plan make_plan(const Kernels& kernels, const ConvArgs& args) {
  const Window& w = args.window;
  const size_t group_in = args.in_c / args.groups, group_out = args.out_c / args.groups, run = w.kernel_w * group_in;
  Plan plan{};
  plan.thin = group_in % 4 != 0 && group_in < kStrip;
  plan.in_place = args.groups == 1 && (w.dilation_w == 1 || w.kernel_w == 1);
  plan.runs = plan.thin || (plan.in_place && group_in % 4 == 0);
  plan.packed = {group_out, w.taps(), group_in};
  plan.shape = plan.runs ? PackedShape{group_out, w.kernel_h, run} : plan.packed;
  plan.taps = plan.shape.taps;
  plan.k = plan.runs ? round_up(run, 4) : group_in;
  plan.path = &path_of(kernels, product_of(kernels, args, plan, args.weights, 0));
  return plan;
}

/// Zero points for the longest read of a row outside of the image.
size_t zeros_bytes(const Plan& plan, const ConvArgs& args) { return std::max(plan.k, args.in_c); }

/// Of the weights in the order of runs, where the plan wants that.
size_t run_bytes(const Plan& plan, const ConvArgs& args) {
  return plan.thin ? args.groups * packed_bytes(plan.shape) : 0;
}
/// The same where the caller has not brought them into that order.
size_t own_run_bytes(const Plan& plan, const ConvArgs& args) {
  return args.in_runs == nullptr ? run_bytes(plan, args) : 0;
}

size_t pointer_bytes(const Plan& plan) { return round_up(plan.taps * plan.path->rows * sizeof(uint8_t*), kLine); }
size_t copy_bytes(const Plan& plan) { return plan.runs ? round_up(plan.path->rows * plan.taps * plan.k, kLine) : 0; }

/// Weights of one group from taps to runs: byte b of a run is channel b % group_in of its tap b / group_in.
void pack_runs(const Plan& plan, const uint8_t* from, uint8_t* to) {
  const size_t group_in = plan.packed.k_per_tap, run = plan.shape.k_per_tap, tap_quads = ceil_div(group_in, 4);
  const size_t kernel_w = run / group_in;
  for (size_t panel = 0; panel < plan.shape.panels(); ++panel) {
    const size_t line = plan.shape.panel_width(panel) * 4;
    const uint8_t* taps = from + plan.packed.panel_offset(panel);
    uint8_t* quad = to + plan.shape.panel_offset(panel);
    for (size_t ky = 0; ky < plan.shape.taps; ++ky) {
      for (size_t b0 = 0; b0 < run; b0 += 4, quad += line) {
        for (size_t b = b0; b < b0 + 4; ++b) {
          const size_t tap = ky * kernel_w + b / group_in, k = b % group_in;
          const uint8_t* bytes = taps + (tap * tap_quads + k / 4) * line + k % 4;
          for (size_t i = 0; i < line; i += 4) quad[i + b - b0] = b < run ? bytes[i] : 0;
        }
      }
    }
  }
}

void pack_groups(const Plan& plan, const ConvArgs& args, uint8_t* to) {
  for (size_t g = 0; g < args.groups; ++g) {
    pack_runs(plan, args.weights + g * packed_bytes(plan.packed), to + g * packed_bytes(plan.shape));
  }
}

/// The run from pixel `x` of the image row at `line` on, tap by tap.
void copy_run(const ConvArgs& args, const Source& source, size_t line, size_t x, size_t group_in, uint8_t* to) {
  const Window& w = args.window;
  for (size_t kx = 0; kx < w.kernel_w; ++kx, x += w.dilation_w, to += group_in) {
    std::memcpy(to, x < w.in_w ? source.x + line + x * args.in_c : source.zeros, group_in);
  }
}

/// Where the rows of one chunk of pixels are looked up.
struct Chunk {
  const Plan& plan;
  const ConvArgs& args;
  const Source& source;
  size_t group;
  const uint8_t** pointers;
  uint8_t* copies;  // room for the runs of all rows
  /// The output pixel behind the last row: where the walk goes on, mostly, and nothing need be divided.
  size_t next = SIZE_MAX, batch = 0, out_y = 0, out_x = 0;

  void find(size_t pixel) {
    if (pixel == next) return;
    const Window& w = args.window;
    const size_t out_row = pixel / w.out_w;
    out_x = pixel - out_row * w.out_w, batch = out_row / w.out_h, out_y = out_row - batch * w.out_h;
  }
  void point_at_runs(size_t pixel, size_t rows);

  static void fill(void* self, size_t pixel, size_t rows) {
    Chunk& chunk = *static_cast<Chunk*>(self);
    if (chunk.plan.runs) return chunk.point_at_runs(pixel, rows);
    const ConvArgs& args = chunk.args;
    fill_row_pointers(args.window, pixel, rows, chunk.source.x + chunk.group * chunk.plan.k, args.in_c,
                      chunk.source.zeros, {chunk.pointers, rows, 1});
  }
};

/// Pointers to the runs of `rows` output pixels from `pixel` on: [kernel_h][rows].
void Chunk::point_at_runs(size_t pixel, size_t rows) {
  const Window& w = args.window;
  const size_t group_in = plan.packed.k_per_tap, reach = (w.kernel_w - 1) * w.dilation_w;
  const size_t clear_to = plan.in_place && reach < w.in_w ? w.in_w - reach : 0, step = w.stride_w * args.in_c;
  find(pixel);
  for (size_t r = 0, n = 0; r < rows; r += n) {  // the pixels that lie in one row of the output
    n = std::min(rows - r, w.out_w - out_x);
    // Coordinates above the padding are negative and, as size_t, past every size.
    const size_t y0 = out_y * w.stride_h - w.pad_top, x0 = out_x * w.stride_w - w.pad_left;
    for (size_t ky = 0, y = y0; ky < w.kernel_h; ++ky, y += w.dilation_h) {
      const uint8_t** to = pointers + ky * rows + r;
      if (y >= w.in_h) {
        std::fill(to, to + n, source.zeros);
        continue;
      }
      const size_t line = (batch * w.in_h + y) * w.in_w * args.in_c + group * group_in;
      size_t x = x0, at = line + x0 * args.in_c;
      const size_t last = x + (n - 1) * w.stride_w;
      if (x <= last && last < clear_to && at + (n - 1) * step + plan.k <= source.bytes) {
        for (size_t i = 0; i < n; ++i) to[i] = source.x + at + i * step;
        continue;
      }
      for (size_t i = 0; i < n; ++i, x += w.stride_w, at += step) {
        if (x < clear_to && at + plan.k <= source.bytes) {
          to[i] = source.x + at;
        } else {
          uint8_t* copy = copies + ((r + i) * w.kernel_h + ky) * plan.k;
          copy_run(args, source, line, x, group_in, copy);
          to[i] = copy;
        }
      }
    }
    if ((out_x += n) != w.out_w) continue;
    out_x = 0;
    if (++out_y == w.out_h) out_y = 0, ++batch;
  }
  next = pixel + rows;
}

/// One chunk of pixels of one group, all output channels of the group.
void conv_chunk(const Kernels& kernels, const ConvArgs& args, const Plan& plan, const Source& source,
                const uint8_t* weights, size_t group, size_t begin, size_t end, uint8_t* slot) {
  Chunk chunk{plan, args, source, group, reinterpret_cast<const uint8_t**>(slot), slot + pointer_bytes(plan)};
  if (plan.thin) std::memset(chunk.copies, 0, copy_bytes(plan));  // what fills up a run's last quad
  const RowTable table{chunk.pointers, Chunk::fill, &chunk};
  GemmArgs product = product_of(kernels, args, plan, weights, group);
  product.table = &table;
  plan.path->run(kernels, product, {begin, end, 0, plan.shape.n}, kernels.tile_strips);
}

}  // namespace

const char* conv_path(const Runtime& rt, const ConvArgs& args) { return make_plan(*rt.kernels, args).path->name; }

std::vector<const char*> conv_choices(const Runtime& rt, const ConvArgs& args) {
  return paths_for(*rt.kernels, product_of(*rt.kernels, args, make_plan(*rt.kernels, args), args.weights, 0));
}

size_t conv_runs_bytes(const Runtime& rt, const ConvArgs& args) {
  return run_bytes(make_plan(*rt.kernels, args), args);
}

void pack_conv_runs(const Runtime& rt, const ConvArgs& args, uint8_t* to) {
  pack_groups(make_plan(*rt.kernels, args), args, to);
}

size_t conv_scratch_bytes(const Runtime& rt, const ConvArgs& args) {
  const Plan plan = make_plan(*rt.kernels, args);
  const Tasks tasks = split_work(rt.threads, kTasksPerThread, args.window.pixels(), rt.kernels->tile_rows);
  return source_bytes(rt, args, zeros_bytes(plan, args)) + own_run_bytes(plan, args) +
         tasks.count * args.groups * (pointer_bytes(plan) + copy_bytes(plan));
}

void conv(const Runtime& rt, const ConvArgs& args, uint8_t* scratch) {
  const Plan plan = make_plan(*rt.kernels, args);
  const Source source = make_source(rt, args, zeros_bytes(plan, args), scratch);
  const uint8_t* weights = plan.thin ? args.in_runs : args.weights;
  if (weights == nullptr) {
    pack_groups(plan, args, source.rest);
    weights = source.rest;
  }
  uint8_t* const slots = source.rest + own_run_bytes(plan, args);
  const size_t pixels = args.window.pixels(), slot_bytes = pointer_bytes(plan) + copy_bytes(plan);
  const int threads = worth_a_thread(conv_macs(args) * kCost / macs_per_us(rt.kernels->isa)) ? rt.threads : 1;
  const Tasks tasks = split_work(threads, kTasksPerThread, pixels, rt.kernels->tile_rows);
  parallel_for(tasks.count * args.groups, threads, [&](size_t task) {
    const size_t group = task / tasks.count, begin = task % tasks.count * tasks.per_task;
    conv_chunk(*rt.kernels, args, plan, source, weights, group, begin, std::min(pixels, begin + tasks.per_task),
               slots + task * slot_bytes);
  });
}

}  // namespace ek
