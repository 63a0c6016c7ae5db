// Depthwise convolution of floats, output row by output row: the pixels that meet the image with the whole width of the
// kernel go together, those at its sides one by one.
#include <algorithm>

#include "base/checked.h"
#include "conv/conv_f32.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;
/// What a multiply-add takes, in those of a matrix product: every one brings its own float.
constexpr double kCost = 2.5;
constexpr size_t kTasksPerThread = 4;

size_t zero_floats(const F32ConvArgs& args) { return round_up(args.in_c, kLine / sizeof(float)); }

/// Where a task keeps the places of its taps.
size_t slot_bytes(const F32ConvArgs& args) {
  return round_up(args.window.taps() * (sizeof(float*) + sizeof(size_t)), kLine);
}

struct Tasks {
  size_t count;
  int threads;
};
Tasks tasks_of(const Runtime& rt, const F32ConvArgs& args) {
  const Window3& w = args.window;
  const size_t rows = w.batch * w.out[0] * w.out[1];
  const double macs = static_cast<double>(w.out_pixels()) * static_cast<double>(w.taps() * args.out_c);
  if (rt.threads <= 1 || !worth_a_thread(macs * kCost / f32_macs_per_us(rt.kernels->isa))) return {1, 1};
  return {std::min(rows, kTasksPerThread * static_cast<size_t>(rt.threads)), rt.threads};
}

/// Output columns whose windows lie inside the image: [first, second).
std::pair<size_t, size_t> clear_columns(const Window3& w) {
  const size_t reach = (w.kernel[2] - 1) * w.dilation[2];
  const size_t from = std::min(w.out[2], ceil_div(w.pad[2], w.stride[2]));
  if (reach >= w.in[2] + w.pad[2]) return {from, from};
  const size_t to = (w.in[2] + w.pad[2] - reach - 1) / w.stride[2] + 1;
  return {from, std::clamp(to, from, w.out[2])};
}

void run_row(const Runtime& rt, const F32ConvArgs& args, size_t row, const float* zeros, uint8_t* slot) {
  const Window3& w = args.window;
  const OutRow o = out_row(w, row);
  const auto [clear_from, clear_to] = clear_columns(w);
  auto* const taps = reinterpret_cast<const float**>(slot);
  auto* const steps = reinterpret_cast<size_t*>(slot + w.taps() * sizeof(float*));
  F32DepthwiseRow d{};
  d.taps = taps;
  d.steps = steps;
  d.num_taps = w.taps();
  d.channels = args.out_c;
  d.weights = args.weights;
  d.out_ld = out_bytes(args.epilogue, args.out_c);
  for (size_t at = 0; at < w.out[2]; at += d.pixels) {
    d.pixels = at >= clear_from && at < clear_to ? clear_to - at : 1;
    size_t tap = 0;
    for (size_t kd = 0; kd < w.kernel[0]; ++kd) {
      for (size_t kh = 0; kh < w.kernel[1]; ++kh) {
        // Coordinates before the image are past every size.
        const size_t z = o.d * w.stride[0] + kd * w.dilation[0] - w.pad[0];
        const size_t y = o.h * w.stride[1] + kh * w.dilation[1] - w.pad[1];
        const bool row_inside = z < w.in[0] && y < w.in[1];
        const size_t line = ((o.batch * w.in[0] + z) * w.in[1] + y) * w.in[2];
        for (size_t kw = 0; kw < w.kernel[2]; ++kw, ++tap) {
          const size_t x = at * w.stride[2] + kw * w.dilation[2] - w.pad[2];
          const bool inside = row_inside && x < w.in[2];
          taps[tap] = inside ? args.x + (line + x) * args.in_c : zeros;
          steps[tap] = inside ? w.stride[2] * args.in_c : 0;
        }
      }
    }
    d.row = row * w.out[2] + at;
    d.out = static_cast<uint8_t*>(args.y) + d.row * d.out_ld;
    rt.kernels->depthwise_f32_row(d, args.epilogue);
  }
}

}  // namespace

size_t depthwise_f32_scratch_bytes(const Runtime& rt, const F32ConvArgs& args) {
  return zero_floats(args) * sizeof(float) + tasks_of(rt, args).count * slot_bytes(args);
}

void depthwise_f32(const Runtime& rt, const F32ConvArgs& args, uint8_t* scratch) {
  auto* const zeros = reinterpret_cast<float*>(scratch);
  std::fill(zeros, zeros + zero_floats(args), 0.0f);
  uint8_t* const slots = scratch + zero_floats(args) * sizeof(float);
  const size_t rows = args.window.batch * args.window.out[0] * args.window.out[1];
  const Tasks tasks = tasks_of(rt, args);
  parallel_for(tasks.count, tasks.threads, [&](size_t task) {
    for (size_t row = rows * task / tasks.count; row < rows * (task + 1) / tasks.count; ++row) {
      run_row(rt, args, row, zeros, slots + task * slot_bytes(args));
    }
  });
}

}  // namespace ek
