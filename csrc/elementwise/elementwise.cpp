#include "elementwise/elementwise.h"

#include <algorithm>

#include "base/checked.h"
#include "threads/pool.h"

namespace ek {
namespace {

/// Elements a task works on: some microseconds of work, a multiple of every vector.
constexpr size_t kChunk = 32768;

template <typename Body>
void for_each_chunk(const Runtime& rt, size_t n, Row row, Body&& body) {
  parallel_for(ceil_div(n, kChunk), rt.threads, [&](size_t task) {
    const size_t at = task * kChunk;
    body(at, std::min(kChunk, n - at));
    count_row(rt, row);
  });
}

}  // namespace

void quantize(const Runtime& rt, const float* x, size_t n, QuantParams q, uint8_t* y) {
  for_each_chunk(rt, n, Row::kQuantize, [&](size_t at, size_t len) { rt.kernels->quantize(x + at, len, q, y + at); });
}

void dequantize(const Runtime& rt, const uint8_t* x, size_t n, QuantParams q, float* y) {
  for_each_chunk(rt, n, Row::kDequantize,
                 [&](size_t at, size_t len) { rt.kernels->dequantize(x + at, len, q, y + at); });
}

void add(const Runtime& rt, const uint8_t* a, QuantParams qa, const uint8_t* b, QuantParams qb, size_t n,
         QuantParams qy, float lo, float hi, uint8_t* y) {
  for_each_chunk(rt, n, Row::kAdd,
                 [&](size_t at, size_t len) { rt.kernels->add(a + at, qa, b + at, qb, len, qy, lo, hi, y + at); });
}

void lookup(const Runtime& rt, const uint8_t* x, size_t n, const uint8_t* table, uint8_t* y) {
  for_each_chunk(rt, n, Row::kLookup, [&](size_t at, size_t len) { rt.kernels->lookup(x + at, len, table, y + at); });
}

void dynamic_quantize_rows(const Runtime& rt, const float* x, size_t rows, size_t cols, size_t ldx, Sign sign,
                           uint8_t* q, size_t ldq, float* scale) {
  const size_t rows_per_task = std::max<size_t>(1, kChunk / std::max<size_t>(1, cols));
  parallel_for(ceil_div(rows, rows_per_task), rt.threads, [&](size_t task) {
    const size_t row = task * rows_per_task, count = std::min(rows_per_task, rows - row);
    rt.kernels->quantize_rows(x + row * ldx, count, cols, ldx, sign, q + row * ldq, ldq, scale + row);
    count_row(rt, Row::kQuantizeRow);
  });
}

}  // namespace ek
