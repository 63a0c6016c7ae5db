#include "gemm/linear.h"

#include <algorithm>
#include <atomic>

#include "base/checked.h"
#include "cpu/machine.h"
#include "elementwise/elementwise.h"
#include "gemm/rows.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Rows below which loading a panel of weights from L3 costs more than multiplying it.
constexpr size_t kMinPartRows = 48;
/// A thread that takes parts costs as much as two: it quantizes what it then multiplies.
constexpr double kWakes = 2;

size_t depth(const LinearArgs& args) { return args.gemm.b.shape.k_per_tap; }

/// How the rows of x are cut: each part is quantized and multiplied by one thread, or there is one part for all.
struct Parts {
  size_t count, rows;
  int threads;  // that take parts; the threads of the only part are gemm's
};

Parts cut_rows(const Runtime& rt, const LinearArgs& args) {
  const size_t m = args.gemm.m, k = std::max<size_t>(1, depth(args));
  const double macs = static_cast<double>(m) * static_cast<double>(k) * static_cast<double>(args.gemm.b.shape.n);
  const bool alone = !worth_a_thread(macs / macs_per_us(rt.kernels->isa) / kWakes);
  const size_t threads = alone ? 1 : static_cast<size_t>(rt.threads);
  if (m < threads * kMinPartRows) return {1, m, 1};
  const size_t part_bytes = resident_bytes() / 4 * 3;  // of quantized rows, beside a panel of weights
  const size_t most = std::max(2 * kMinPartRows, part_bytes / k);
  const size_t count = round_up(ceil_div(m, most), threads);
  const size_t rows = round_up(ceil_div(m, count), rt.kernels->tile_rows);
  return {ceil_div(m, rows), rows, static_cast<int>(threads)};
}

/// The product of the first part, without its operands.
GemmArgs first_part(const Runtime& rt, const LinearArgs& args) {
  GemmArgs part = args.gemm;
  part.m = std::min(cut_rows(rt, args).rows, part.m);
  part.whole_m = args.gemm.m;
  return product_of_rows(rt, {nullptr, nullptr, code_stride(depth(args))}, part);
}

}  // namespace

void make_symmetric_init(const Kernels& kernels, const PackedView& b, int32_t* init) {
  make_init(kernels, Sign::kS8, 0, b.colsum(), nullptr, b.shape.n, init);
}

const char* linear_path(const Runtime& rt, const LinearArgs& args) { return gemm_path(rt, first_part(rt, args)); }

std::vector<const char*> linear_choices(const Runtime& rt, const LinearArgs& args) {
  return gemm_choices(rt, first_part(rt, args));
}

size_t linear_scratch_bytes(const Runtime& rt, const LinearArgs& args) {
  const Parts parts = cut_rows(rt, args);
  return static_cast<size_t>(parts.threads) * quantized_rows_bytes(parts.rows, depth(args), args.zero_points);
}

void linear(const Runtime& rt, const LinearArgs& args, uint8_t* scratch) {
  const size_t m = args.gemm.m, k = depth(args);
  if (m == 0) return;
  const Parts parts = cut_rows(rt, args);
  const Sign sign = rt.kernels->native_sign;
  // One task a thread, so that each has a slot of scratch; the parts go to whoever is free.
  std::atomic<size_t> next{0};
  parallel_for(static_cast<size_t>(parts.threads), parts.threads, [&](size_t slot) {
    const size_t at = slot * quantized_rows_bytes(parts.rows, k, args.zero_points);
    const QuantizedRows rows = quantized_rows_in(scratch + at, parts.rows, k, args.zero_points);
    const Runtime part_rt{rt.kernels, parts.count == 1 ? rt.threads : 1};
    for (size_t part = next.fetch_add(1); part < parts.count; part = next.fetch_add(1)) {
      const size_t row0 = part * parts.rows;
      GemmArgs gemm_args = args.gemm;
      gemm_args.m = std::min(parts.rows, m - row0);
      const float* const x = args.x + row0 * args.ldx;
      if (args.zero_points) {
        dynamic_quantize_spans(part_rt, x, gemm_args.m, k, args.ldx, sign, rows.codes, rows.stride, rows.scale,
                               rows.zero_point);
      } else {
        dynamic_quantize_rows(part_rt, x, gemm_args.m, k, args.ldx, sign, rows.codes, rows.stride, rows.scale);
      }
      gemm_args.whole_m = m;
      gemm_args.c = static_cast<uint8_t*>(args.gemm.c) + row0 * args.gemm.ldc;
      if (gemm_args.epilogue.addend != nullptr) gemm_args.epilogue.addend += row0 * gemm_args.epilogue.addend_ld;
      multiply_rows(part_rt, rows, gemm_args);
    }
  });
}

}  // namespace ek
