#include "decoder/matrix.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/checked.h"
#include "cpu/machine.h"
#include "elementwise/elementwise.h"
#include "gemm/gemm.h"
#include "gemm/gemm4.h"
#include "gemm/rows.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr size_t kLine = 64;
/// Values that a thread norms before a second one pays.
constexpr size_t kValuesPerTask = 32768;

size_t normed_bytes(size_t rows, size_t k) { return round_up(rows * k * sizeof(float), kLine); }

template <typename F>
void for_rows(const Runtime& rt, size_t rows, size_t k, F&& body) {
  const size_t per_task = std::max<size_t>(1, kValuesPerTask / std::max<size_t>(1, k));
  parallel_for(ceil_div(rows, per_task), rt.threads, [&](size_t task) {
    const size_t end = std::min(rows, (task + 1) * per_task);
    for (size_t row = task * per_task; row < end; ++row) body(row);
  });
}

NormRow norm_of(const Kernels& kernels, const RowSource& source, size_t row, size_t k) {
  const float* const x = source.x + row * source.ldx;
  float squares = 0;
  kernels.reduce_rows(ReduceOp::kSumSquares, x, 1, k, &squares);
  return {x, source.gain, k, 1.0f / std::sqrt(squares / static_cast<float>(k) + source.eps)};
}

/// The source's rows as floats: normed into `out` where they are to be.
RowSource real_rows(const Runtime& rt, const RowSource& source, size_t rows, size_t k, float* out) {
  if (source.gain == nullptr) return source;
  const Normalization how{source.eps, false, source.gain, nullptr};
  for_rows(rt, rows, k,
           [&](size_t row) { rt.kernels->normalize_rows(source.x + row * source.ldx, 1, k, how, out + row * k); });
  return {out, k};
}

void multiply8(const Runtime& rt, const Matrix& w, const RowSource& source, size_t rows, GemmArgs args,
               uint8_t* scratch) {
  const QuantizedRows codes = quantized_rows_in(scratch, rows, w.k);
  const Sign sign = rt.kernels->native_sign;
  if (source.gain == nullptr) {
    dynamic_quantize_rows(rt, source.x, rows, w.k, source.ldx, sign, codes.codes, codes.stride, codes.scale);
  } else {
    for_rows(rt, rows, w.k, [&](size_t row) {
      rt.kernels->norm_quantize_row(norm_of(*rt.kernels, source, row, w.k), sign, codes.codes + row * codes.stride,
                                    codes.scale + row);
    });
  }
  args.m = rows;
  args.b = {{w.n, 1, w.k}, w.data};
  args.init = reinterpret_cast<const int32_t*>(w.init.data());
  args.epilogue.multiplier = w.scale;
  multiply_rows(rt, codes, args);
}

void multiply32(const Runtime& rt, const Matrix& w, const RowSource& source, size_t rows, const GemmArgs& args) {
  const size_t panels = ceil_div(w.n, kPanel), height = rt.kernels->f32_tile_rows;
  const double macs = static_cast<double>(rows) * static_cast<double>(w.n) * static_cast<double>(w.k);
  const bool serial = !worth_a_thread(macs / f32_macs_per_us(rt.kernels->isa));
  const size_t tasks = serial ? 1 : std::min(panels, static_cast<size_t>(rt.threads) * 8);
  parallel_for(tasks, rt.threads, [&](size_t task) {
    F32GemmTile tile{};
    tile.lda = source.ldx;
    tile.k = w.k;
    tile.b_step = kStrip;
    tile.b_line = kPanel;
    tile.starts = true;
    tile.scale = 1.0f;
    tile.ldc = args.ldc;
    for (size_t panel = task * panels / tasks; panel < (task + 1) * panels / tasks; ++panel) {
      tile.b = reinterpret_cast<const float*>(w.data) + panel * w.k * kPanel;
      tile.col0 = panel * kPanel;
      tile.cols = std::min(kPanel, w.n - tile.col0);
      for (size_t row = 0; row < rows; row += tile.rows) {
        tile.row0 = row;
        tile.rows = std::min(height, rows - row);
        tile.a = source.x + row * source.ldx;
        tile.c = static_cast<uint8_t*>(args.c) + row * args.ldc + out_bytes(args.epilogue, tile.col0);
        rt.kernels->gemm_f32_tile(tile, &args.epilogue);
      }
    }
  });
}

Gemm4Args args4_of(const Matrix& w, const RowSource& source, size_t rows, const GemmArgs& args) {
  return {rows, source.x, source.ldx, false, {w.shape4, w.data, w.unit}, args.c, args.ldc, args.epilogue};
}

}  // namespace

size_t packed_f32_bytes(size_t n, size_t k) { return round_up(n, kPanel) * k * sizeof(float); }

void pack_f32(size_t n, size_t k, const float* w, size_t ld, float* out) {
  for (size_t first = 0; first < n; first += kPanel) {
    const size_t columns = std::min(kPanel, n - first);
    for (size_t i = 0; i < k; ++i, out += kPanel) {
      for (size_t c = 0; c < kPanel; ++c) out[c] = c < columns ? w[(first + c) * ld + i] : 0.0f;
    }
  }
}

size_t Matrix::bytes() const {
  if (bits == 32) return packed_f32_bytes(n, k);
  if (grouped()) return shape4.panels() * shape4.panel_bytes();
  return packed_bytes();
}

size_t Matrix::packed_bytes() const {
  if (bits == 32) return packed_f32_bytes(n, k);
  size_t bytes = 0;
  const bool fits = grouped() ? shape4.bytes(&bytes) : PackedShape{n, 1, k}.bytes(&bytes);
  return fits ? bytes : 0;
}

size_t multiply_scratch_bytes(const Matrix& matrix, size_t rows) {
  if (matrix.bits == 8) return quantized_rows_bytes(rows, matrix.k);
  size_t gemm4_bytes = 0;
  if (matrix.grouped() && !gemm4_scratch_bytes(args4_of(matrix, {}, rows, {}), &gemm4_bytes)) return 0;
  return normed_bytes(rows, matrix.k) + gemm4_bytes;
}

void multiply(const Runtime& rt, const Matrix& w, const RowSource& source, size_t rows, Activation activation,
              const float* addend, float* y, size_t ldy, uint8_t* scratch) {
  GemmArgs args;
  args.c = y;
  args.ldc = ldy * sizeof(float);
  args.epilogue.kind = OutKind::kFloat32;
  args.epilogue.activation = activation;
  args.epilogue.lo = -std::numeric_limits<float>::infinity();
  args.epilogue.hi = std::numeric_limits<float>::infinity();
  args.epilogue.bias = w.bias;
  args.epilogue.addend = addend;
  args.epilogue.addend_ld = ldy;
  if (w.bits == 8) return multiply8(rt, w, source, rows, args, scratch);
  const RowSource real = real_rows(rt, source, rows, w.k, reinterpret_cast<float*>(scratch));
  if (w.bits == 32) return multiply32(rt, w, real, rows, args);
  gemm4(rt, args4_of(w, real, rows, args), scratch + normed_bytes(rows, w.k));
}

}  // namespace ek
