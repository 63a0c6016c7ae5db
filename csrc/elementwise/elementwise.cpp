#include "elementwise/elementwise.h"

#include <algorithm>
#include <vector>

#include "base/checked.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Elements a task works on: some microseconds of work, a multiple of every vector.
constexpr size_t kChunk = 32768;

template <typename Body>
void for_each_chunk(const Runtime& rt, size_t n, Body&& body) {
  parallel_for(ceil_div(n, kChunk), rt.threads, [&](size_t task) {
    const size_t at = task * kChunk;
    body(at, std::min(kChunk, n - at));
  });
}

template <typename Body>
void for_rows(const Runtime& rt, size_t rows, size_t cols, Body&& body) {
  const size_t rows_per_task = std::max<size_t>(1, kChunk / std::max<size_t>(1, cols));
  parallel_for(ceil_div(rows, rows_per_task), rt.threads, [&](size_t task) {
    const size_t row = task * rows_per_task;
    body(row, std::min(rows_per_task, rows - row));
  });
}

/// The maps of channels whose slices are shorter than a vector: one for each element of a row of all channels.
class Columns {
 public:
  Columns(const Runtime& rt, const ChannelShape& shape, const QuantParams* maps)
      : scale_(round_up(shape.channels * shape.inner, kStrip), 1.0f), zero_point_(scale_.size()), sign_(maps->sign) {
    const size_t per_task = ceil_div(kChunk, shape.inner);
    parallel_for(ceil_div(shape.channels, per_task), rt.threads, [&](size_t task) {
      for (size_t c = task * per_task; c < std::min(shape.channels, (task + 1) * per_task); ++c) {
        const size_t at = c * shape.inner;
        std::fill_n(&scale_[at], shape.inner, maps[c].scale);
        std::fill_n(&zero_point_[at], shape.inner, static_cast<float>(maps[c].zero_point));
      }
    });
  }
  /// From a column on, a multiple of kStrip.
  ColumnMaps from(size_t column) const { return {&scale_[column], &zero_point_[column], sign_}; }

 private:
  std::vector<float> scale_, zero_point_;
  Sign sign_;
};

/// `slice(at, n, map)` takes the n elements from `at` on, `rows(at, rows, n, maps)` dense rows of n.
template <typename Slice, typename Rows>
void by_channels(const Runtime& rt, const ChannelShape& shape, const QuantParams* maps, Slice&& slice, Rows&& rows) {
  const size_t width = shape.channels * shape.inner;
  if (width == 0) return;
  if (shape.channels > 1 && shape.inner < kStrip) {
    const Columns columns(rt, shape, maps);
    const size_t parts = ceil_div(width, kChunk), per_task = ceil_div(kChunk, width);  // one of them is 1
    parallel_for(ceil_div(shape.outer, per_task) * parts, rt.threads, [&](size_t task) {
      const size_t first = task / parts * per_task, column = task % parts * kChunk;
      rows(first * width + column, std::min(per_task, shape.outer - first), std::min(kChunk, width - column),
           columns.from(column));
    });
    return;
  }
  const size_t parts = ceil_div(shape.inner, kChunk), per_task = ceil_div(kChunk, shape.inner);
  const size_t pieces = shape.outer * shape.channels * parts;  // of slices longer than a chunk, else whole ones
  parallel_for(ceil_div(pieces, per_task), rt.threads, [&](size_t task) {
    for (size_t i = task * per_task; i < std::min(pieces, (task + 1) * per_task); ++i) {
      const size_t whole = i / parts, at = i % parts * kChunk;
      slice(whole * shape.inner + at, std::min(kChunk, shape.inner - at), maps[whole % shape.channels]);
    }
  });
}

}  // namespace

void quantize(const Runtime& rt, const float* x, size_t n, QuantParams q, uint8_t* y) {
  for_each_chunk(rt, n, [&](size_t at, size_t len) { rt.kernels->quantize(x + at, len, q, y + at); });
}

void dequantize(const Runtime& rt, const uint8_t* x, size_t n, QuantParams q, float* y) {
  for_each_chunk(rt, n, [&](size_t at, size_t len) { rt.kernels->dequantize(x + at, len, q, y + at); });
}

void quantize_channels(const Runtime& rt, const float* x, const ChannelShape& shape, const QuantParams* maps,
                       uint8_t* y) {
  by_channels(
      rt, shape, maps,
      [&](size_t at, size_t n, const QuantParams& map) { rt.kernels->quantize(x + at, n, map, y + at); },
      [&](size_t at, size_t rows, size_t n, const ColumnMaps& columns) {
        rt.kernels->quantize_columns(x + at, rows, n, columns, y + at);
      });
}

void dequantize_channels(const Runtime& rt, const uint8_t* x, const ChannelShape& shape, const QuantParams* maps,
                         float* y) {
  by_channels(
      rt, shape, maps,
      [&](size_t at, size_t n, const QuantParams& map) { rt.kernels->dequantize(x + at, n, map, y + at); },
      [&](size_t at, size_t rows, size_t n, const ColumnMaps& columns) {
        rt.kernels->dequantize_columns(x + at, rows, n, columns, y + at);
      });
}

void add(const Runtime& rt, const uint8_t* a, QuantParams qa, const uint8_t* b, QuantParams qb, size_t n,
         QuantParams qy, float lo, float hi, uint8_t* y) {
  for_each_chunk(rt, n,
                 [&](size_t at, size_t len) { rt.kernels->add(a + at, qa, b + at, qb, len, qy, lo, hi, y + at); });
}

void lookup(const Runtime& rt, const uint8_t* x, size_t n, const uint8_t* table, uint8_t* y) {
  for_each_chunk(rt, n, [&](size_t at, size_t len) { rt.kernels->lookup(x + at, len, table, y + at); });
}

void dynamic_quantize_rows(const Runtime& rt, const float* x, size_t rows, size_t cols, size_t ldx, Sign sign,
                           uint8_t* q, size_t ldq, float* scale) {
  for_rows(rt, rows, cols, [&](size_t row, size_t count) {
    rt.kernels->quantize_rows(x + row * ldx, count, cols, ldx, sign, q + row * ldq, ldq, scale + row);
  });
}

void dynamic_quantize_spans(const Runtime& rt, const float* x, size_t rows, size_t cols, size_t ldx, Sign sign,
                            uint8_t* q, size_t ldq, float* scale, int32_t* zero_point) {
  for_rows(rt, rows, cols, [&](size_t row, size_t count) {
    rt.kernels->quantize_spans(x + row * ldx, count, cols, ldx, sign, q + row * ldq, ldq, scale + row,
                               zero_point + row);
  });
}

}  // namespace ek
