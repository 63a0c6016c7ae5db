#include "gemm/gemm_wide.h"

#include <algorithm>
#include <atomic>

#include "base/checked.h"
#include "cpu/machine.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Floats that a thread takes at a time.
constexpr size_t kChunk = 16384;
/// Rows below which loading a panel of weights from L3 costs more than multiplying it.
constexpr size_t kMinPartRows = 48;
constexpr size_t kLine = 64;

/// How rows are cut: each part is split, multiplied and finished by one thread, or there is one part for all.
struct Parts {
  size_t count, rows;
  int threads;  // that take parts; the threads of the only part are gemm's
};

/// What one part has in the scratch: bytes of its rows, the upper ones of all in front, and both products.
struct Room {
  size_t products, all;

  Room(const GemmWideArgs& args, size_t rows) {
    products = round_up(2 * rows * args.b.shape.k_per_tap, kLine);
    all = products + 2 * rows * args.b.shape.padded_n() * sizeof(int32_t);
  }
};

Parts cut_rows(const Runtime& rt, const GemmWideArgs& args) {
  const double macs = 2.0 * static_cast<double>(args.m) * static_cast<double>(args.b.shape.k_per_tap) *
                      static_cast<double>(args.b.shape.n);
  const size_t threads = worth_a_thread(macs / macs_per_us(rt.kernels->isa)) ? static_cast<size_t>(rt.threads) : 1;
  if (args.m < threads * kMinPartRows) return {1, args.m, 1};
  const size_t row = Room(args, 1).all, most = std::max(kMinPartRows, resident_bytes() / row);
  const size_t count = round_up(ceil_div(args.m, most), threads);
  const size_t rows = round_up(ceil_div(args.m, count), rt.kernels->tile_rows);
  return {ceil_div(args.m, rows), rows, static_cast<int>(threads)};
}

/// Both products of so many rows: those of the lower bytes follow those of the upper ones.
GemmArgs product_of(const Runtime& rt, const GemmWideArgs& args, size_t rows) {
  GemmArgs product;
  product.m = 2 * rows;
  product.lda = args.b.shape.k_per_tap;
  product.a_sign = rt.kernels->native_sign;
  product.b = args.b;
  product.path = args.path;
  product.ldc = args.b.shape.padded_n() * sizeof(int32_t);
  return product;
}

}  // namespace

void make_wide_start(const Kernels& kernels, const WideParams& q, const int32_t* colsum, size_t n, double* start) {
  const double shift = kernels.native_sign == Sign::kS8 ? 257.0 * 128.0 : 0.0;
  for (size_t i = 0; i < n; ++i) start[i] = (shift - q.from_least()) * static_cast<double>(colsum[i]);
}

void split_codes(const Runtime& rt, const float* x, size_t n, const WideParams& q, uint8_t* high, uint8_t* low) {
  parallel_for(ceil_div(n, kChunk), rt.threads, [&](size_t task) {
    const size_t at = task * kChunk;
    rt.kernels->split_codes(x + at, std::min(kChunk, n - at), q, rt.kernels->native_sign, high + at, low + at);
  });
}

const char* gemm_wide_path(const Runtime& rt, const GemmWideArgs& args) {
  return gemm_path(rt, product_of(rt, args, std::min(args.m, cut_rows(rt, args).rows)));
}

std::vector<const char*> gemm_wide_choices(const Runtime& rt, const GemmWideArgs& args) {
  return gemm_choices(rt, product_of(rt, args, std::min(args.m, cut_rows(rt, args).rows)));
}

size_t gemm_wide_scratch_bytes(const Runtime& rt, const GemmWideArgs& args) {
  const Parts parts = cut_rows(rt, args);
  const size_t zeros = args.b.shape.padded_n() * sizeof(int32_t);
  return zeros + static_cast<size_t>(parts.threads) * round_up(Room(args, parts.rows).all, kLine);
}

void gemm_wide(const Runtime& rt, const GemmWideArgs& args, uint8_t* scratch) {
  if (args.m == 0) return;
  const Parts parts = cut_rows(rt, args);
  const size_t k = args.b.shape.k_per_tap, n = args.b.shape.n, padded = args.b.shape.padded_n();
  const size_t ldc = out_bytes(args.epilogue, n);
  auto* const zeros = reinterpret_cast<int32_t*>(scratch);
  std::fill_n(zeros, padded, 0);
  std::atomic<size_t> next{0};
  parallel_for(static_cast<size_t>(parts.threads), parts.threads, [&](size_t slot) {
    const Room room(args, parts.rows);
    uint8_t* const bytes = scratch + padded * sizeof(int32_t) + slot * round_up(room.all, kLine);
    auto* const products = reinterpret_cast<int32_t*>(bytes + room.products);
    const Runtime part_rt{rt.kernels, parts.count == 1 ? rt.threads : 1};
    for (size_t part = next.fetch_add(1); part < parts.count; part = next.fetch_add(1)) {
      const size_t row0 = part * parts.rows, rows = std::min(parts.rows, args.m - row0);
      split_codes(part_rt, args.x + row0 * k, rows * k, args.q, bytes, bytes + rows * k);
      GemmArgs product = product_of(part_rt, args, rows);
      product.a = bytes;
      product.init = zeros;
      product.c = products;
      gemm(part_rt, product);
      WideRows done{products, products + rows * padded, padded, rows, n, args.start, nullptr, ldc, row0, 0};
      const size_t each = parts.count == 1 ? std::max<size_t>(1, kChunk / std::max<size_t>(1, n)) : rows;
      parallel_for(ceil_div(rows, each), part_rt.threads, [&](size_t task) {
        WideRows some = done;
        const size_t first = task * each;
        some.high += first * padded;
        some.low += first * padded;
        some.rows = std::min(each, rows - first);
        some.row0 += first;
        some.c = static_cast<uint8_t*>(args.c) + some.row0 * ldc;
        rt.kernels->finish_wide(some, args.epilogue);
      });
    }
  });
}

}  // namespace ek
