// Indirect convolution of floats: rows of a product that lie where a table says, a run of floats for each tap.
//
// Runs       a tap's channels; of an input with few channels, whose kernel's row lies side by side in the image, the
//            whole row of the kernel. A run that leaves the image at its side is copied, zeros for what is outside.
// Outside    a row of zeros stands for pixels that there are not.
// Transposed output pixels of one phase, their place modulo the stride, meet the same taps: each phase is a convolution
//            of its own, over those taps alone.
// Pointwise  nothing to look up: a product over pixels.
#include "conv/conv_f32.h"

#include <algorithm>
#include <cstring>

#include "base/checked.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;
/// Output pixels whose rows are looked up at once: as many as a block of a product has rows.
constexpr size_t kMaxRows = 96 + kMaxF32TileRows;
/// Channels below which a row of the kernel is one run.
constexpr size_t kThin = 16;

struct Plan {
  bool pointwise, thin;
  size_t group_in, group_out, strips;
  size_t runs, run;      // of one row of the product; floats of each
  size_t weight_floats;  // of a group, to the next 64 bytes
};

bool is_pointwise(const F32ConvArgs& args) {
  const Window3& w = args.window;
  return w.taps() == 1 && args.groups == 1 && w.in == w.out && w.stride == std::array<size_t, 3>{1, 1, 1} &&
         w.pad == std::array<size_t, 3>{0, 0, 0};
}

Plan make_plan(const F32ConvArgs& args) {
  const Window3& w = args.window;
  Plan plan{};
  plan.pointwise = is_pointwise(args);
  plan.group_in = args.in_c / args.groups;
  plan.group_out = args.out_c / args.groups;
  plan.strips = ceil_div(plan.group_out, kStrip);
  plan.thin = !args.transposed && args.groups == 1 && args.in_c < kThin && w.kernel[2] > 1 && w.dilation[2] == 1;
  plan.runs = plan.thin ? w.kernel[0] * w.kernel[1] : w.taps();
  plan.run = plan.thin ? w.kernel[2] * args.in_c : plan.group_in;
  plan.weight_floats = round_up(w.taps() * plan.group_in * plan.strips * kStrip, kLine / sizeof(float));
  return plan;
}

/// Scratch of one unit: where rows lie, where the lines of their runs are, runs that are copied.
struct Slot {
  const float** table;  // [runs][kMaxRows]
  size_t* lines;        // [runs]
  float* copies;        // [kMaxRows][runs][run], if there are any

  static size_t bytes(const Plan& plan) {
    return round_up(plan.runs * kMaxRows * sizeof(float*), kLine) + round_up(plan.runs * sizeof(size_t), kLine) +
           (plan.thin ? round_up(kMaxRows * plan.runs * plan.run * sizeof(float), kLine) : 0);
  }
  Slot(const Plan& plan, uint8_t* at) {
    table = reinterpret_cast<const float**>(at);
    at += round_up(plan.runs * kMaxRows * sizeof(float*), kLine);
    lines = reinterpret_cast<size_t*>(at);
    copies = reinterpret_cast<float*>(at + round_up(plan.runs * sizeof(size_t), kLine));
  }
};

/// Pixels of one row of the image that a tap meets: the first, and how far it is to the next.
struct Walk {
  ptrdiff_t first;
  size_t step;
};

/// Where `count` pixels of the image row at `line` lie; a null line is outside.
void point_at_pixels(const F32ConvArgs& args, const float* line, Walk walk, size_t count, const float* zeros,
                     const float** to) {
  if (line == nullptr) return std::fill(to, to + count, zeros);
  size_t x = static_cast<size_t>(walk.first);  // left of the image it is past every width
  for (size_t i = 0; i < count; ++i, x += walk.step) to[i] = x < args.window.in[2] ? line + x * args.in_c : zeros;
}

/// The same of runs over the whole width of the kernel; those that leave the image are copied.
void point_at_runs(const F32ConvArgs& args, const Plan& plan, const float* line, Walk walk, size_t count,
                   const float* zeros, float* copies, const float** to) {
  if (line == nullptr) return std::fill(to, to + count, zeros);
  const size_t width = args.window.in[2], taps = args.window.kernel[2], c = args.in_c;
  size_t x = static_cast<size_t>(walk.first);
  for (size_t i = 0; i < count; ++i, x += walk.step, copies += plan.runs * plan.run) {
    if (x < width && taps <= width - x) {
      to[i] = line + x * c;
      continue;
    }
    for (size_t k = 0; k < taps; ++k) {
      std::memcpy(copies + k * c, x + k < width ? line + (x + k) * c : zeros, c * sizeof(float));
    }
    to[i] = copies;
  }
}

/// The product of one group, but for its rows and where they go.
F32Args product_of(const F32ConvArgs& args, const Plan& plan, size_t group) {
  F32Args product;
  product.b = {plan.runs * plan.run, plan.group_out, args.weights + group * plan.weight_floats};
  product.epilogue = args.epilogue;
  if (product.epilogue.bias != nullptr) product.epilogue.bias += group * plan.strips * kStrip;
  if (product.epilogue.addend != nullptr) product.epilogue.addend += group * plan.group_out;
  product.c = static_cast<uint8_t*>(args.y) + out_bytes(args.epilogue, group * plan.group_out);
  product.ldc = out_bytes(args.epilogue, args.out_c);
  return product;
}

/// Output pixels [begin, end) of one group, strips [strip0, strip1).
void conv_pixels(const Kernels& kernels, const F32ConvArgs& args, const Plan& plan, size_t group, size_t begin,
                 size_t end, size_t strip0, size_t strip1, const float* zeros, const Slot& slot) {
  const Window3& w = args.window;
  const F32Args product = product_of(args, plan, group);
  const float* const x = args.x + group * plan.group_in;
  const size_t image_row = w.in[2] * args.in_c, block = f32_block_rows(kernels, end - begin);
  for (size_t run = 0; run < plan.runs; ++run) slot.lines[run] = run * plan.run * kStrip;
  F32Rows rows;
  rows.table = slot.table;
  rows.table_ld = kMaxRows;
  rows.runs = plan.runs;
  rows.run = plan.run;
  rows.lines = slot.lines;
  for (size_t pixel = begin; pixel < end; pixel += block) {
    const size_t last = std::min(end, pixel + block);
    for (size_t at = pixel, n; at < last; at += n) {  // the pixels that lie in one row of the output
      const size_t row = at / w.out[2], out_x = at - row * w.out[2];
      n = std::min(last - at, w.out[2] - out_x);
      const OutRow o = out_row(w, row);
      const float** to = slot.table + (at - pixel);
      float* copies = plan.thin ? slot.copies + (at - pixel) * plan.runs * plan.run : nullptr;
      for (size_t kd = 0; kd < w.kernel[0]; ++kd) {
        for (size_t kh = 0; kh < w.kernel[1]; ++kh) {
          // Coordinates before the image are past every size.
          const size_t d = o.d * w.stride[0] + kd * w.dilation[0] - w.pad[0];
          const size_t h = o.h * w.stride[1] + kh * w.dilation[1] - w.pad[1];
          const bool inside = d < w.in[0] && h < w.in[1];
          const float* line = inside ? x + ((o.batch * w.in[0] + d) * w.in[1] + h) * image_row : nullptr;
          Walk walk{static_cast<ptrdiff_t>(out_x * w.stride[2]) - static_cast<ptrdiff_t>(w.pad[2]), w.stride[2]};
          if (plan.thin) {
            point_at_runs(args, plan, line, walk, n, zeros, copies, to);
            to += kMaxRows;
            copies += plan.run;
            continue;
          }
          for (size_t kw = 0; kw < w.kernel[2]; ++kw, to += kMaxRows) {
            point_at_pixels(args, line, walk, n, zeros, to);
            walk.first += static_cast<ptrdiff_t>(w.dilation[2]);
          }
        }
      }
    }
    f32_block(kernels, product, rows, pixel, last, strip0, strip1);
  }
}

/// The taps of an axis that output coordinates `phase` modulo the stride meet: every one of `every`, from `first` on.
struct Phase {
  size_t first, every;
};

/// o + pad - t * dilation is a multiple of the stride. Of the taps that fit, two neighbors are stride / gcd apart.
Phase phase_of(size_t phase, size_t pad, size_t kernel, size_t stride, size_t dilation) {
  size_t found[2] = {kernel, 2 * kernel}, n = 0;
  for (size_t t = 0; t < kernel && n < 2; ++t) {
    if ((phase + pad + (stride - dilation % stride) * t) % stride == 0) found[n++] = t;
  }
  return {found[0], n < 2 ? kernel : found[1] - found[0]};
}

/// (o + pad - t * dilation) / stride, which is whole.
ptrdiff_t source_of(size_t o, size_t pad, size_t tap, size_t dilation, size_t stride) {
  const auto at = static_cast<ptrdiff_t>(o + pad) - static_cast<ptrdiff_t>(tap * dilation);
  return at / static_cast<ptrdiff_t>(stride);
}

/// One output row of one group.
void transposed_row(const Kernels& kernels, const F32ConvArgs& args, const Plan& plan, size_t group, size_t row,
                    size_t strip0, size_t strip1, const float* zeros, const Slot& slot) {
  const Window3& w = args.window;
  const OutRow o = out_row(w, row);
  const Phase in_d = phase_of(o.d % w.stride[0], w.pad[0], w.kernel[0], w.stride[0], w.dilation[0]);
  const Phase in_h = phase_of(o.h % w.stride[1], w.pad[1], w.kernel[1], w.stride[1], w.dilation[1]);
  F32Args product = product_of(args, plan, group);
  const size_t pixel_bytes = product.ldc;
  uint8_t* const y = static_cast<uint8_t*>(product.c) + row * w.out[2] * pixel_bytes;
  const float* const x = args.x + group * plan.group_in;
  for (size_t phase = 0; phase < std::min(w.stride[2], w.out[2]); ++phase) {
    const Phase in_w = phase_of(phase, w.pad[2], w.kernel[2], w.stride[2], w.dilation[2]);
    const size_t pixels = ceil_div(w.out[2] - phase, w.stride[2]), block = f32_block_rows(kernels, pixels);
    product.c = y + phase * pixel_bytes;
    product.ldc = w.stride[2] * pixel_bytes;
    for (size_t pixel = 0; pixel < pixels; pixel += block) {
      const size_t last = std::min(pixels, pixel + block);
      F32Rows rows;
      rows.table = slot.table;
      rows.table_ld = kMaxRows;
      rows.runs = 0;
      rows.run = plan.run;
      rows.lines = slot.lines;
      for (size_t kd = in_d.first; kd < w.kernel[0]; kd += in_d.every) {
        const ptrdiff_t d = source_of(o.d, w.pad[0], kd, w.dilation[0], w.stride[0]);
        for (size_t kh = in_h.first; kh < w.kernel[1]; kh += in_h.every) {
          const ptrdiff_t h = source_of(o.h, w.pad[1], kh, w.dilation[1], w.stride[1]);
          const bool inside = static_cast<size_t>(d) < w.in[0] && static_cast<size_t>(h) < w.in[1];
          const size_t image_row = (o.batch * w.in[0] + static_cast<size_t>(d)) * w.in[1] + static_cast<size_t>(h);
          const float* line = inside ? x + image_row * w.in[2] * args.in_c : nullptr;
          for (size_t kw = in_w.first; kw < w.kernel[2]; kw += in_w.every, ++rows.runs) {
            const ptrdiff_t from = source_of(phase, w.pad[2], kw, w.dilation[2], w.stride[2]);
            point_at_pixels(args, line, {from + static_cast<ptrdiff_t>(pixel), 1}, last - pixel, zeros,
                            slot.table + rows.runs * kMaxRows);
            slot.lines[rows.runs] = ((kd * w.kernel[1] + kh) * w.kernel[2] + kw) * plan.run * kStrip;
          }
        }
      }
      f32_block(kernels, product, rows, pixel, last, strip0, strip1);
    }
  }
}

/// Units of one group: of rows or pixels, or of strips.
struct Units {
  size_t per_group;
  bool of_rows;
  int threads;
};

Units units_of(const Runtime& rt, const F32ConvArgs& args, const Plan& plan) {
  const Window3& w = args.window;
  const size_t m = w.out_pixels() / (args.transposed ? w.stride[0] * w.stride[1] * w.stride[2] : 1);
  const F32Pieces pieces = f32_pieces(rt, std::max<size_t>(m, 1), plan.strips * args.groups, plan.runs * plan.run);
  const size_t per_group = std::max<size_t>(1, ceil_div(pieces.count, args.groups));
  const size_t rows = args.transposed ? w.out_pixels() / w.out[2] : ceil_div(w.out_pixels(), kMaxF32TileRows);
  const bool of_rows = rows >= plan.strips;
  return {std::min(per_group, of_rows ? rows : plan.strips), of_rows, pieces.count == 1 ? 1 : rt.threads};
}

size_t zero_floats(const F32ConvArgs& args, const Plan& plan) {
  return round_up(std::max(plan.run, args.in_c), kLine / sizeof(float));
}

F32Args pointwise_product(const F32ConvArgs& args, const Plan& plan) {
  F32Args product = product_of(args, plan, 0);
  product.m = args.window.out_pixels();
  product.a = args.x;
  product.lda = args.in_c;
  return product;
}

}  // namespace

bool f32_group_floats(const F32ConvArgs& args, size_t* out) {
  size_t k;
  return checked_mul(args.window.taps(), args.in_c / args.groups, &k) &&
         f32_packed_floats(k, args.out_c / args.groups, out);
}

size_t conv_f32_scratch_bytes(const Runtime& rt, const F32ConvArgs& args) {
  const Plan plan = make_plan(args);
  if (plan.pointwise) return f32_scratch_floats(rt, args.window.out_pixels(), args.in_c, args.out_c) * sizeof(float);
  return zero_floats(args, plan) * sizeof(float) + args.groups * units_of(rt, args, plan).per_group * Slot::bytes(plan);
}

void conv_f32(const Runtime& rt, const F32ConvArgs& args, uint8_t* scratch) {
  const Plan plan = make_plan(args);
  if (plan.pointwise) return gemm_f32(rt, pointwise_product(args, plan), reinterpret_cast<float*>(scratch));
  const Window3& w = args.window;
  auto* const zeros = reinterpret_cast<float*>(scratch);
  std::fill(zeros, zeros + zero_floats(args, plan), 0.0f);
  uint8_t* const slots = scratch + zero_floats(args, plan) * sizeof(float);
  const Units units = units_of(rt, args, plan);
  const size_t rows = args.transposed ? w.out_pixels() / w.out[2] : w.out_pixels();
  const size_t granule = args.transposed || !units.of_rows ? 1 : rt.kernels->f32_tile_rows;
  const size_t most = units.of_rows ? ceil_div(rows, granule) : plan.strips;
  parallel_for(args.groups * units.per_group, units.threads, [&](size_t unit) {
    const size_t group = unit / units.per_group, i = unit % units.per_group;
    const size_t from = most * i / units.per_group * granule;
    const size_t to = std::min(units.of_rows ? rows : plan.strips, most * (i + 1) / units.per_group * granule);
    const size_t row0 = units.of_rows ? from : 0, row1 = units.of_rows ? to : rows;
    const size_t strip0 = units.of_rows ? 0 : from, strip1 = units.of_rows ? plan.strips : to;
    const Slot slot(plan, slots + unit * Slot::bytes(plan));
    if (!args.transposed) {
      conv_pixels(*rt.kernels, args, plan, group, row0, row1, strip0, strip1, zeros, slot);
      return;
    }
    for (size_t row = row0; row < row1; ++row) {
      transposed_row(*rt.kernels, args, plan, group, row, strip0, strip1, zeros, slot);
    }
  });
}

}  // namespace ek
