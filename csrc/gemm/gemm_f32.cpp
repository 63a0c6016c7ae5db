#include "gemm/gemm_f32.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// A strip of so many k is 16 KiB: half of an L1, the rest is the rows' and C's.
constexpr size_t kDepth = kMostAtOnceDepth;
/// Rows that a strip meets before the next one comes: a multiple of every tile's height. Their part of A stays in the
/// L2.
constexpr size_t kRows = 96;
/// Strips side by side that a low tile takes: one where rows are many, which has the L1 for itself.
constexpr size_t kSide = 4;
/// Strips from which on a copy of the rows is paid for by what they then save: rows a power of two apart share the sets
/// of an L1.
constexpr size_t kCopyStrips = 12;
/// Work of one unit that idle threads may take from a busy one, in what a thread costs.
constexpr double kWakesPerUnit = 4;
constexpr size_t kUnitsPerThread = 4;

/// Sums of an unfinished depth wait in C, which only float32 can hold.
bool holds_sums(const F32Args& args) {
  return args.epilogue.kind == OutKind::kFloat32 && args.epilogue.activation != Activation::kSwiglu;
}

bool is_plain(const F32Args& args) {
  const Epilogue& e = args.epilogue;
  return e.kind == OutKind::kFloat32 && e.activation == Activation::kClamp && e.bias == nullptr &&
         e.addend == nullptr && e.lo == -HUGE_VALF && e.hi == HUGE_VALF && args.scale == 1.0f;
}

/// A piece of the depth: some whole runs, or `k` floats of one from `shift` on.
struct Depth {
  size_t run, runs, shift, k;
  bool copied = false;  // the rows are those of the piece alone
};

void run_depth(const Kernels& kernels, const F32Args& args, const F32Rows& rows, const Depth& depth, bool starts,
               bool ends, size_t row0, size_t row1, size_t strip0, size_t strip1) {
  const size_t side = row1 - row0 < kernels.f32_tile_rows ? kSide : 1, n = args.b.n;
  const size_t unpacked_to = args.b.tail == nullptr ? strip1 : std::min(strip1, n / kStrip);
  const Epilogue* const finish = ends && !is_plain(args) ? &args.epilogue : nullptr;
  F32GemmTile tile = {};
  tile.lda = rows.lda;
  tile.table_ld = rows.table_ld;
  tile.runs = depth.runs;
  tile.k = depth.k;
  tile.shift = depth.shift;
  tile.lines = rows.lines + (rows.table == nullptr ? 0 : depth.run);
  tile.starts = starts;
  tile.scale = args.scale;
  tile.ldc = args.ldc;
  const size_t depth_line =
      depth.shift + (rows.table == nullptr || depth.runs == 0 ? 0 : rows.lines[depth.run] / kStrip);
  for (size_t strip = strip0; strip < strip1;) {
    const bool in_tail = strip >= unpacked_to;
    const size_t next = in_tail ? strip1 : std::min(unpacked_to, strip + side);
    tile.b_line = in_tail ? kStrip : args.b.line;
    tile.b_step = args.b.step();
    tile.b = (in_tail ? args.b.tail : args.b.strip(strip)) + depth.shift * tile.b_line;
    tile.col0 = strip * kStrip;
    tile.cols = std::min(n, next * kStrip) - tile.col0;
    const size_t height = tile.cols <= kNarrowColumns ? kernels.f32_narrow_rows : kernels.f32_tile_rows;
    // A strip is a few pages of its own, which nothing fetches ahead by itself: each tile asks for a part of the next.
    const bool fetches = args.b.packed() && next < strip1 && row1 - row0 > 2 * height;
    const size_t lines = fetches ? depth.runs * depth.k : 0, per_tile = ceil_div(lines, ceil_div(row1 - row0, height));
    for (size_t row = row0, line = 0; row < row1; row += tile.rows, line += per_tile) {
      tile.ahead_lines = line < lines ? std::min(per_tile, lines - line) : 0;
      tile.ahead = fetches ? args.b.strip(next) + depth_line * kStrip + line * kStrip : nullptr;
      tile.rows = std::min(height, row1 - row);
      tile.row0 = row;
      if (rows.table == nullptr) {
        tile.a = rows.a + (row - row0) * rows.lda + (depth.copied ? 0 : depth.shift);
      } else {
        tile.table = rows.table + depth.run * rows.table_ld + (row - row0);
      }
      tile.c = static_cast<uint8_t*>(args.c) + row * args.ldc + out_bytes(args.epilogue, tile.col0);
      kernels.gemm_f32_tile(tile, finish);
    }
    strip = next;
  }
}

/// Rows [row0, row1) times strips [strip0, strip1), block by block; each depth of a block copied first where there is
/// room.
void run_part(const Kernels& kernels, const F32Args& args, size_t row0, size_t row1, size_t strip0, size_t strip1,
              float* copy) {
  const size_t block = f32_block_rows(kernels, row1 - row0);
  const size_t k = args.b.k,
               depth = holds_sums(args) && row1 - row0 > kernels.f32_tile_rows ? kDepth : std::max<size_t>(k, 1);
  if (depth > kDepth) copy = nullptr;  // a single tile goes down all of k: a copy has no room for it
  for (size_t row = row0; row < row1; row += block) {
    const size_t end = std::min(row1, row + block);
    F32Rows rows;
    rows.a = args.a + row * args.lda;
    rows.lda = args.lda;
    if (copy == nullptr) {
      f32_block(kernels, args, rows, row, end, strip0, strip1);
      continue;
    }
    for (size_t from = 0; from < k; from += depth) {
      const size_t count = std::min(depth, k - from);
      for (size_t i = 0; i < end - row; ++i) {
        std::memcpy(copy + i * kDepth, rows.a + i * args.lda + from, count * sizeof(float));
      }
      F32Rows dense;
      dense.a = copy;
      dense.lda = kDepth;
      run_depth(kernels, args, dense, {0, 1, from, count, true}, from == 0, from + count == k, row, end, strip0,
                strip1);
    }
  }
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
    if (stride_k == 1 && stride_n >= 0) {
      return rt.kernels->f32_strip(first, cols, k, static_cast<size_t>(stride_n), to);
    }
    for (size_t i = 0; i < k; ++i, to += kStrip) {
      const float* from = first + static_cast<ptrdiff_t>(i) * stride_k;
      if (stride_n == 1 && cols == kStrip) {
        std::memcpy(to, from, kStrip * sizeof(float));
        continue;
      }
      for (size_t j = 0; j < cols; ++j) to[j] = from[static_cast<ptrdiff_t>(j) * stride_n];
      for (size_t j = cols; j < kStrip; ++j) to[j] = 0.0f;
    }
  });
}

size_t f32_block_rows(const Kernels& kernels, size_t m) {
  const size_t blocks = std::max<size_t>(1, ceil_div(m, kRows));
  return std::max<size_t>(1, round_up(ceil_div(m, blocks), kernels.f32_tile_rows));
}

void f32_block(const Kernels& kernels, const F32Args& args, const F32Rows& rows, size_t row0, size_t row1,
               size_t strip0, size_t strip1) {
  const bool whole = !holds_sums(args) || row1 - row0 <= kernels.f32_tile_rows;
  if (rows.table != nullptr && (whole || rows.run <= kDepth || rows.runs == 0)) {
    const size_t together = whole ? rows.runs : std::max<size_t>(1, kDepth / std::max<size_t>(1, rows.run));
    size_t run = 0;
    do {
      const size_t count = std::min(together, rows.runs - run);
      run_depth(kernels, args, rows, {run, count, 0, rows.run}, run == 0, run + count == rows.runs, row0, row1, strip0,
                strip1);
      run += count;
    } while (run < rows.runs);
    return;
  }
  const size_t runs = rows.table == nullptr ? 1 : rows.runs, k = rows.table == nullptr ? args.b.k : rows.run;
  for (size_t run = 0; run < runs; ++run) {
    size_t from = 0;
    do {
      const size_t count = whole ? k : std::min(kDepth, k - from);
      run_depth(kernels, args, rows, {run, 1, from, count}, run == 0 && from == 0, run + 1 == runs && from + count == k,
                row0, row1, strip0, strip1);
      from += count;
    } while (from < k);
  }
}

F32Pieces f32_pieces(const Runtime& rt, size_t m, size_t strips, size_t k) {
  const double macs = static_cast<double>(m) * static_cast<double>(strips * kStrip) * static_cast<double>(k + 1);
  const double us = macs / f32_macs_per_us(rt.kernels->isa);
  const size_t tiles = ceil_div(m, rt.kernels->f32_tile_rows), most = std::max(tiles, strips);
  const bool of_rows = tiles >= strips;
  if (rt.threads <= 1 || !worth_a_thread(us)) return {1, of_rows};
  // As many as are worth taking from a thread that is late, and each thread the same number: three between two would
  // take as long as four.
  const auto threads = static_cast<size_t>(rt.threads);
  const double each = us / (kWakesPerUnit * machine().wake_us) / static_cast<double>(rt.threads);
  const auto per_thread = static_cast<size_t>(std::clamp(each, 1.0, static_cast<double>(kUnitsPerThread)));
  return {std::min(most, per_thread * threads), of_rows};
}

size_t f32_scratch_floats(const Runtime& rt, size_t m, size_t k, size_t n) {
  const F32Pieces pieces = f32_pieces(rt, m, ceil_div(n, kStrip), k);
  const size_t strips = ceil_div(n, kStrip) / (pieces.of_rows ? 1 : pieces.count);
  if (m <= kRows / 2 || strips < kCopyStrips || k < kDepth) return 0;
  return pieces.count * kRows * kDepth;
}

void gemm_f32(const Runtime& rt, const F32Args& args, float* scratch) {
  const size_t strips = ceil_div(args.b.n, kStrip), height = rt.kernels->f32_tile_rows;
  if (args.m == 0 || args.b.n == 0) return;
  const F32Pieces pieces = f32_pieces(rt, args.m, strips, args.b.k);
  const bool copies = scratch != nullptr && holds_sums(args) && f32_scratch_floats(rt, args.m, args.b.k, args.b.n) != 0;
  const size_t most = pieces.of_rows ? ceil_div(args.m, height) : strips;
  parallel_for(pieces.count, rt.threads, [&](size_t i) {
    const size_t from = most * i / pieces.count, to = most * (i + 1) / pieces.count;
    const size_t row0 = pieces.of_rows ? from * height : 0,
                 row1 = pieces.of_rows ? std::min(args.m, to * height) : args.m;
    float* const copy = copies ? scratch + i * kRows * kDepth : nullptr;
    run_part(*rt.kernels, args, row0, row1, pieces.of_rows ? 0 : from, pieces.of_rows ? strips : to, copy);
  });
}

}  // namespace ek
