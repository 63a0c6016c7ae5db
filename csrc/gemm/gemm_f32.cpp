#include "gemm/gemm_f32.h"

#include <algorithm>
#include <cmath>

#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// A strip of so many k is 16 KiB: half of an L1, the rest is the rows' and C's.
constexpr size_t kDepth = 256;
/// Rows that a strip meets before the next one comes: a multiple of every tile's height. Their part of A stays in the
/// L2.
constexpr size_t kRows = 96;
/// Strips side by side that the narrowest tile takes.
constexpr size_t kSide = 4;
/// Work of one unit that idle threads may take from a busy one, in what a thread costs.
constexpr double kWakesPerUnit = 4;

struct Part {
  size_t row0, row1, strip0, strip1;
};

/// Sums of an unfinished depth wait in C, which only float32 can hold.
size_t depth_of(const F32Args& args) {
  const bool holds_sums = args.epilogue.kind == OutKind::kFloat32 && args.epilogue.activation != Activation::kSwiglu;
  return holds_sums ? kDepth : std::max<size_t>(args.b.k, 1);
}

bool is_plain(const Epilogue& e) {
  return e.kind == OutKind::kFloat32 && e.activation == Activation::kClamp && e.bias == nullptr &&
         e.addend == nullptr && e.lo == -HUGE_VALF && e.hi == HUGE_VALF;
}

void run_part(const Runtime& rt, const F32Args& args, const Part& part) {
  const size_t depth = depth_of(args), height = rt.kernels->f32_tile_rows;
  const bool plain = is_plain(args.epilogue);
  F32GemmTile tile = {};
  tile.lda = args.lda;
  tile.b_step = args.b.k * kStrip;
  tile.ldc = args.ldc;
  size_t from = 0;
  do {
    tile.k = std::min(depth, args.b.k - from);
    tile.starts = from == 0;
    const Epilogue* const finish = from + tile.k == args.b.k && !plain ? &args.epilogue : nullptr;
    for (size_t row0 = part.row0; row0 < part.row1; row0 += kRows) {
      const size_t row1 = std::min(part.row1, row0 + kRows);
      const size_t side = row1 - row0 < height ? kSide : 2;
      for (size_t strip = part.strip0; strip < part.strip1; strip += side) {
        tile.b = args.b.strip(strip) + from * kStrip;
        tile.col0 = strip * kStrip;
        tile.cols = std::min(args.b.n, std::min(part.strip1, strip + side) * kStrip) - tile.col0;
        for (tile.row0 = row0; tile.row0 < row1; tile.row0 += tile.rows) {
          tile.rows = std::min(height, row1 - tile.row0);
          tile.a = args.a + tile.row0 * args.lda + from;
          tile.c = static_cast<uint8_t*>(args.c) + tile.row0 * args.ldc + out_bytes(args.epilogue, tile.col0);
          rt.kernels->gemm_f32_tile(tile, finish);
        }
      }
    }
    from += tile.k;
  } while (from < args.b.k);
}

}  // namespace

bool f32_packed_floats(size_t k, size_t n, size_t* out) {
  size_t floats, bytes;
  if (n > SIZE_MAX - kStrip || !checked_mul(k, round_up(n, kStrip), &floats)) return false;
  if (!checked_mul(floats, sizeof(float), &bytes)) return false;
  *out = floats;
  return true;
}

void pack_f32(const Runtime& rt, size_t k, size_t n, const float* w, ptrdiff_t stride_k, ptrdiff_t stride_n,
              float* out) {
  parallel_for(ceil_div(n, kStrip), rt.threads, [&](size_t strip) {
    float* to = out + strip * k * kStrip;
    const size_t cols = std::min(kStrip, n - strip * kStrip);
    const float* const first = w + static_cast<ptrdiff_t>(strip * kStrip) * stride_n;
    for (size_t i = 0; i < k; ++i, to += kStrip) {
      const float* from = first + static_cast<ptrdiff_t>(i) * stride_k;
      for (size_t j = 0; j < cols; ++j) to[j] = from[static_cast<ptrdiff_t>(j) * stride_n];
      for (size_t j = cols; j < kStrip; ++j) to[j] = 0.0f;
    }
  });
}

void gemm_f32(const Runtime& rt, const F32Args& args) {
  const size_t strips = ceil_div(args.b.n, kStrip), height = rt.kernels->f32_tile_rows;
  if (args.m == 0 || args.b.n == 0) return;
  const double macs = static_cast<double>(args.m) * static_cast<double>(strips * kStrip * (args.b.k + 1));
  const double us = macs / f32_macs_per_us(rt.kernels->isa);
  if (rt.threads <= 1 || !worth_a_thread(us)) return run_part(rt, args, {0, args.m, 0, strips});
  // The longer side is shared out, in as many pieces as are worth taking from a thread that is late.
  const size_t tiles = ceil_div(args.m, height), most = std::max(tiles, strips);
  const double worth = us / (kWakesPerUnit * machine().wake_us);
  const size_t threads = static_cast<size_t>(rt.threads);
  const size_t units = std::min(most, std::max(threads, std::min(static_cast<size_t>(worth), 4 * threads)));
  parallel_for(units, rt.threads, [&](size_t i) {
    const size_t from = most * i / units, to = most * (i + 1) / units;
    if (tiles >= strips) {
      run_part(rt, args, {from * height, std::min(args.m, to * height), 0, strips});
    } else {
      run_part(rt, args, {0, args.m, from, to});
    }
  });
}

}  // namespace ek
