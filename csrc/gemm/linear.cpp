#include "gemm/linear.h"

#include <algorithm>
#include <atomic>

#include "base/checked.h"
#include "elementwise/elementwise.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kMacroTile = 256;
/// Quantized rows that wait in L2 beside a panel of weights.
constexpr size_t kPartBytes = size_t{384} << 10;
/// Rows below which loading a panel of weights from L3 costs more than multiplying it.
constexpr size_t kMinPartRows = 48;
/// Work below which a second thread costs more than it brings.
constexpr double kSerialMacs = 2e6;

size_t depth(const LinearArgs& args) { return args.gemm.b.shape.k_per_tap; }

/// How the rows of x are cut: each part is quantized and multiplied by one thread, or there is one part for all.
struct Parts {
  size_t count, rows;
  int threads;  // that take parts; the threads of the only part are gemm's
};

Parts cut_rows(const Runtime& rt, const LinearArgs& args) {
  const size_t m = args.gemm.m, k = std::max<size_t>(1, depth(args));
  const double macs = static_cast<double>(m) * static_cast<double>(k) * static_cast<double>(args.gemm.b.shape.n);
  const size_t threads = macs < kSerialMacs ? 1 : static_cast<size_t>(rt.threads);
  if (m < threads * kMinPartRows) return {1, m, 1};
  const size_t most = std::max(2 * kMinPartRows, kPartBytes / k);
  const size_t count = round_up(ceil_div(m, most), threads);
  const size_t rows = round_up(ceil_div(m, count), rt.kernels->tile_rows);
  return {ceil_div(m, rows), rows, static_cast<int>(threads)};
}

/// Quantized rows start on a line, and not a page apart: that would put the rows of a tile into one set of the L1.
size_t row_bytes(size_t k) {
  const size_t lines = round_up(k, kLine);
  return lines % 4096 == 0 ? lines + kLine : lines;
}

size_t slot_bytes(const Parts& parts, size_t k) {
  return round_up(parts.rows * sizeof(float), kLine) + parts.rows * row_bytes(k);
}

}  // namespace

void make_symmetric_init(const Kernels& kernels, const PackedView& b, int32_t* init) {
  make_init(kernels, Sign::kS8, 0, b.colsum(), nullptr, b.shape.n, init);
}

size_t linear_scratch_bytes(const Runtime& rt, const LinearArgs& args) {
  const Parts parts = cut_rows(rt, args);
  return static_cast<size_t>(parts.threads) * slot_bytes(parts, depth(args));
}

void linear(const Runtime& rt, const LinearArgs& args, uint8_t* scratch) {
  const size_t m = args.gemm.m, k = depth(args), n = args.gemm.b.shape.n, lda = row_bytes(k);
  if (m == 0) return;
  const Parts parts = cut_rows(rt, args);
  const Sign sign = rt.kernels->native_sign;
  const DeviceProfile& host = *find_device("host");
  // Whole quads of k: the bytes that fill the last one meet weights of zero.
  PackedShape shape = args.gemm.b.shape;
  shape.k_per_tap = round_up(k, 4);
  const TilePlan plan = make_tile_plan(parts.rows, n, shape.k_per_tap, kMacroTile, host);
  const size_t last = m - (parts.count - 1) * parts.rows;
  const TilePlan last_plan =
      last == parts.rows ? TilePlan() : make_tile_plan(last, n, shape.k_per_tap, kMacroTile, host);
  // One task a thread, so that each has a slot of scratch; the parts go to whoever is free.
  std::atomic<size_t> next{0};
  parallel_for(static_cast<size_t>(parts.threads), parts.threads, [&](size_t slot) {
    float* const scale = reinterpret_cast<float*>(scratch + slot * slot_bytes(parts, k));
    uint8_t* const rows = reinterpret_cast<uint8_t*>(scale) + round_up(parts.rows * sizeof(float), kLine);
    const Runtime part_rt{rt.kernels, parts.count == 1 ? rt.threads : 1};
    for (size_t part = next.fetch_add(1); part < parts.count; part = next.fetch_add(1)) {
      const size_t row0 = part * parts.rows;
      GemmArgs gemm_args = args.gemm;
      gemm_args.m = part + 1 == parts.count ? last : parts.rows;
      dynamic_quantize_rows(part_rt, args.x + row0 * args.ldx, gemm_args.m, k, args.ldx, sign, rows, lda, scale);
      gemm_args.whole_m = m;
      gemm_args.a = rows;
      gemm_args.lda = lda;
      gemm_args.b.shape = shape;
      gemm_args.a_sign = sign;
      gemm_args.c = static_cast<uint8_t*>(args.gemm.c) + row0 * args.gemm.ldc;
      gemm_args.epilogue.row_scale = scale;
      if (gemm_args.epilogue.addend != nullptr) gemm_args.epilogue.addend += row0 * gemm_args.epilogue.addend_ld;
      gemm(part_rt, gemm_args, gemm_args.m == parts.rows ? plan : last_plan);
    }
  });
}

}  // namespace ek
