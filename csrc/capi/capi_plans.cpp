// Float rows times packed weights, int32 sums to 8 bits, the entropy threshold and the tile plan for C.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/checked.h"
#include "base/fp_env.h"
#include "calibration/entropy.h"
#include "capi/capi.h"
#include "capi/failure.h"
#include "gemm/linear.h"
#include "gemm/tile_plan.h"

namespace ek {
namespace {

constexpr size_t kMostTileBlocks = size_t{1} << 24;

bool misaligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(float) != 0; }

/// Rows that are `stride` bytes apart and `columns` floats long.
bool rows_bytes(size_t rows, size_t stride, size_t columns, size_t* bytes) {
  size_t row = 0;
  *bytes = 0;
  if (!checked_mul(columns, sizeof(float), &row) || stride < row || stride % sizeof(float) != 0) return false;
  if (rows == 0 || columns == 0) return true;
  return checked_mul(rows - 1, stride, bytes) && checked_add(*bytes, row, bytes);
}

ek_status check_linear(const ek_linear& l, const float* y, size_t ldy) {
  const size_t k = l.b->shape.k_per_tap, n = l.b->shape.n;
  size_t x_bytes = 0, y_bytes = 0;
  if (k > kMaxRowDepth) {
    return fail(EK_ERROR_DEPTH, "linear_f32: K is %zu; more than %zu could pass 2^31 in the accumulator; split K", k,
                kMaxRowDepth);
  }
  if ((l.x == nullptr && l.m != 0 && k != 0) || (l.column_scale == nullptr && n != 0) ||
      (y == nullptr && l.m != 0 && n != 0)) {
    return fail(EK_ERROR_NULL, "linear_f32: x, column_scale or y is null");
  }
  if (!rows_bytes(l.m, l.ldx, k, &x_bytes) || misaligned(l.x) || misaligned(l.column_scale) || misaligned(l.bias)) {
    return fail(EK_ERROR_VALUE, "linear_f32: ldx is %zu; rows of x hold %zu floats, all at multiples of 4 bytes", l.ldx,
                k);
  }
  if (!rows_bytes(l.m, ldy, n, &y_bytes) || misaligned(y)) {
    return fail(EK_ERROR_OUT, "linear_f32: ldy is %zu; rows of y hold %zu floats, all at multiples of 4 bytes", ldy, n);
  }
  if (!(l.lo <= l.hi)) return fail(EK_ERROR_VALUE, "linear_f32: lo must be at most hi");
  if (overlap(y, y_bytes, l.x, x_bytes) || overlap(y, y_bytes, l.column_scale, n * sizeof(float)) ||
      (l.bias != nullptr && overlap(y, y_bytes, l.bias, n * sizeof(float)))) {
    return fail(EK_ERROR_OUT, "linear_f32: y overlaps x, column_scale or bias");
  }
  return EK_OK;
}

void run_linear(const Runtime& rt, const ek_linear& l, float* y, size_t ldy) {
  LinearArgs args;
  args.x = l.x;
  args.ldx = l.ldx / sizeof(float);
  GemmArgs& g = args.gemm;
  g.m = l.m;
  g.b = {l.b->shape, l.b->data.data()};
  g.c = y;
  g.ldc = ldy;
  g.epilogue.kind = OutKind::kFloat32;
  g.epilogue.lo = l.lo;
  g.epilogue.hi = l.hi;
  const size_t n = l.b->shape.n, column_bytes = round_up(l.b->shape.padded_n() * sizeof(float), 64);
  ThreadRoom room(3 * column_bytes + linear_scratch_bytes(rt, args));
  int32_t* const init = reinterpret_cast<int32_t*>(room.data());
  make_symmetric_init(*rt.kernels, g.b, init);
  g.init = init;
  const auto padded = [&](size_t place, const float* values) {
    uint8_t* const to = room.data() + place * column_bytes;
    std::memset(to, 0, column_bytes);
    if (n != 0) std::memcpy(to, values, n * sizeof(float));
    return reinterpret_cast<const float*>(to);
  };
  g.epilogue.multiplier = padded(1, l.column_scale);
  if (l.bias != nullptr) g.epilogue.bias = padded(2, l.bias);
  linear(rt, args, room.data() + 3 * column_bytes);
}

}  // namespace

ek_status capi_linear_f32(const ek_linear* given, float* y, size_t ldy) {
  return no_throw("linear_f32", [&]() -> ek_status {
    if (given == nullptr || given->b == nullptr) return fail(EK_ERROR_NULL, "linear_f32: linear or its b is null");
    Runtime rt{};
    ek_status status = runtime_of("linear_f32", given->num_threads, &rt);
    if (status == EK_OK) status = check_linear(*given, y, ldy);
    if (status != EK_OK || given->m == 0 || given->b->shape.n == 0) return status;
    const FpGuard guard;
    run_linear(rt, *given, y, ldy);
    return EK_OK;
  });
}

ek_status capi_requantize(const int32_t* acc, size_t n, float multiplier, int32_t zero_point, ek_type type, void* y) {
  return no_throw("requantize", [&]() -> ek_status {
    if ((acc == nullptr || y == nullptr) && n != 0) return fail(EK_ERROR_NULL, "requantize: acc or y is null");
    if (type != EK_U8 && type != EK_S8) {
      return fail(EK_ERROR_VALUE, "requantize: type must be EK_U8 or EK_S8, got %d", type);
    }
    const int32_t lowest = type == EK_U8 ? 0 : -128;
    if (zero_point < lowest || zero_point > lowest + 255) {
      return fail(EK_ERROR_VALUE, "requantize: zero_point %d lies outside the range of type", zero_point);
    }
    size_t bytes = 0;
    if (!std::isfinite(multiplier) || misaligned(acc) || !checked_mul(n, sizeof *acc, &bytes)) {
      return fail(EK_ERROR_VALUE, "requantize: multiplier must be finite, and acc start at a multiple of 4 bytes");
    }
    if (overlap(acc, bytes, y, n)) return fail(EK_ERROR_OUT, "requantize: y overlaps acc");
    Runtime rt{};
    const ek_status status = runtime_of("requantize", 1, &rt);
    if (status != EK_OK) return status;
    const FpGuard guard;
    const auto low = static_cast<float>(lowest - zero_point);
    rt.kernels->requantize(acc, n, multiplier, low, low + 255.0f, zero_point, static_cast<uint8_t*>(y));
    return EK_OK;
  });
}

ek_status capi_entropy_threshold(const uint64_t* counts, size_t num_bins, size_t num_levels, size_t* num_kept,
                                 double* divergence) {
  return no_throw("entropy_threshold", [&]() -> ek_status {
    if (counts == nullptr || num_kept == nullptr) {
      return fail(EK_ERROR_NULL, "entropy_threshold: counts or num_kept is null");
    }
    if (num_levels < 1 || num_levels > num_bins) {
      return fail(EK_ERROR_VALUE, "entropy_threshold: num_levels must lie in [1, %zu], got %zu", num_bins, num_levels);
    }
    uint64_t total = 0;
    for (size_t i = 0; i < num_bins; ++i) {
      if (counts[i] > INT64_MAX - total) {
        return fail(EK_ERROR_VALUE, "entropy_threshold: the sum of counts must stay below 2^63");
      }
      total += counts[i];
    }
    const FpGuard guard;
    const EntropyResult found = entropy_search(counts, num_bins, num_levels);
    *num_kept = found.num_kept;
    if (divergence != nullptr) *divergence = found.divergence;
    return EK_OK;
  });
}

ek_status capi_tile_plan(size_t m, size_t n, size_t k, size_t tile, const char* device, ek_tile_block* blocks,
                         size_t room, size_t* num_blocks) {
  return no_throw("tile_plan", [&]() -> ek_status {
    if (device == nullptr || num_blocks == nullptr || (blocks == nullptr && room != 0)) {
      return fail(EK_ERROR_NULL, "tile_plan: device, blocks or num_blocks is null");
    }
    const DeviceProfile* const profile = find_device(device);
    if (profile == nullptr) return fail(EK_ERROR_VALUE, "tile_plan: unknown device '%s'", device);
    if (tile == 0 || tile % kPanel != 0) {
      return fail(EK_ERROR_VALUE, "tile_plan: tile must be a positive multiple of %zu, got %zu", size_t{kPanel}, tile);
    }
    const size_t down = ceil_div(m, tile), across = ceil_div(n, tile);
    if (down != 0 && across > kMostTileBlocks / down) {
      return fail(EK_ERROR_VALUE, "tile_plan: %zu x %zu blocks are more than %zu", down, across, kMostTileBlocks);
    }
    const FpGuard guard;
    const TilePlan plan = make_tile_plan(m, n, k, tile, *profile);
    *num_blocks = plan.blocks.size();
    for (size_t i = 0; i < std::min(room, plan.blocks.size()); ++i) {
      const TileBlock& b = plan.blocks[i];
      blocks[i] = {b.row0,        b.row1,        b.col0,   b.col1, b.unit == Unit::kCube ? EK_CUBE : EK_VECTOR,
                   b.padded_rows, b.padded_cols, b.cost_us};
    }
    return EK_OK;
  });
}

}  // namespace ek
