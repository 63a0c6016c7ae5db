// Kernels of chains and rows on every ISA: the bits of the scalar bodies, and no byte behind an operand.
#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "guarded.h"
#include "reference.h"

using namespace ek;
using namespace ek::test;

namespace {

const size_t kLengths[] = {1, 7, 15, 16, 17, 31, 33, 100};
constexpr size_t kWalks = ~size_t{0};
constexpr size_t kNumOps = static_cast<size_t>(MapOp::kMulAdd) + 1;

template <typename T>
T item();
template <>
float item() {
  const float infinity = std::numeric_limits<float>::infinity();
  const float specials[] = {0.0f, -0.0f, 0.5f, -1.0f, 2.0f, 3e38f, infinity, -infinity, std::nanf(""), 1e-40f};
  return uniform(0, 3) == 0 ? specials[uniform(0, 9)] : uniform(-40.0f, 40.0f);
}
template <>
int64_t item() {
  const int64_t specials[] = {0, -1, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()};
  return uniform(0, 3) == 0 ? specials[uniform(0, 3)] : uniform(-9, 9);
}

template <typename T>
std::vector<T> some(size_t n) {
  std::vector<T> x(n);
  for (T& v : x) v = item<T>();
  return x;
}

/// Which NaN it is, is not promised.
bool same(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }
template <typename T>
bool same(T a, T b) {
  return a == b;
}
template <typename T>
size_t different(const T* a, const T* b, size_t n) {
  size_t count = 0;
  for (size_t i = 0; i < n; ++i) count += !same(a[i], b[i]);
  return count;
}

/// Calls run(table, y) for every table on y of its own, and compares with the scalar one's.
template <typename T, typename Run>
void equal_on_every_isa(size_t n, Run&& run) {
  Guarded<T> expected(n);
  run(kernels(Isa::kScalar), expected.data());
  for (const Kernels* table : tables()) {
    CAPTURE(isa_name(table->isa));
    Guarded<T> y(n);
    run(*table, y.data());
    CHECK(different(y.data(), expected.data(), n) == 0);
  }
}

}  // namespace

TEST_CASE("an operation over a block has one result, whatever its operands are and where they end") {
  for (const size_t n : kLengths) {
    Guarded<float> a(some<float>(n)), b(some<float>(n)), c(some<float>(n));
    Guarded<float> line(std::vector<float>(kStrip, item<float>()));
    Guarded<int64_t> i(some<int64_t>(n)), j(some<int64_t>(n)), k(some<int64_t>(n));
    for (size_t op = 0; op < kNumOps; ++op) {
      CAPTURE(n);
      CAPTURE(op);
      const MapSource<float> all[3] = {{a.data(), kWalks}, {b.data(), kWalks}, {c.data(), kWalks}};
      const MapSource<float> one[3] = {{a.data(), kWalks}, {line.data(), 0}, {line.data(), 0}};
      const MapSource<int64_t> whole[3] = {{i.data(), kWalks}, {j.data(), kWalks}, {k.data(), kWalks}};
      equal_on_every_isa<float>(n,
                                [&](const Kernels& table, float* y) { table.map(static_cast<MapOp>(op), all, n, y); });
      equal_on_every_isa<float>(n,
                                [&](const Kernels& table, float* y) { table.map(static_cast<MapOp>(op), one, n, y); });
      equal_on_every_isa<float>(n, [&](const Kernels& table, float* y) {  // in place
        std::memcpy(y, b.data(), n * sizeof(float));
        const MapSource<float> own[3] = {{a.data(), kWalks}, {y, kWalks}, {c.data(), kWalks}};
        table.map(static_cast<MapOp>(op), own, n, y);
      });
      equal_on_every_isa<int64_t>(
          n, [&](const Kernels& table, int64_t* y) { table.map_i64(static_cast<MapOp>(op), whole, n, y); });
    }
  }
}

TEST_CASE("blocks come from every type of tensor and go to every type") {
  for (const MapType type : {MapType::kF32, MapType::kI64, MapType::kI32, MapType::kBool, MapType::kCodes}) {
    for (const Sign sign : {Sign::kU8, Sign::kS8}) {
      for (const size_t n : kLengths) {
        CAPTURE(n);
        CAPTURE(static_cast<int>(type));
        const MapFormat format{type, {0.03f, sign == Sign::kU8 ? 3 : -3, sign}};
        const size_t item_bytes = type == MapType::kI64 ? 8 : type == MapType::kBool || type == MapType::kCodes ? 1 : 4;
        Guarded<uint8_t> bytes(random_bytes(n * item_bytes));
        Guarded<float> x(some<float>(n));
        Guarded<int64_t> whole(some<int64_t>(n));
        equal_on_every_isa<float>(n,
                                  [&](const Kernels& table, float* y) { table.map_load(bytes.data(), format, n, y); });
        equal_on_every_isa<uint8_t>(n * item_bytes,
                                    [&](const Kernels& table, uint8_t* y) { table.map_store(x.data(), format, n, y); });
        equal_on_every_isa<uint8_t>(
            n * item_bytes, [&](const Kernels& table, uint8_t* y) { table.map_store_i64(whole.data(), format, n, y); });
        if (type == MapType::kF32) continue;
        equal_on_every_isa<int64_t>(
            n, [&](const Kernels& table, int64_t* y) { table.map_load_i64(bytes.data(), format, n, y); });
      }
    }
  }
}

TEST_CASE("rows and columns end where they end, and have one result") {
  for (const size_t rows : {1u, 3u, 4u, 9u}) {
    for (const size_t n : kLengths) {
      CAPTURE(rows);
      CAPTURE(n);
      const ColumnShape columns{rows, n, n};
      Guarded<float> x(some<float>(rows * n)), scale(some<float>(n));
      Guarded<int64_t> whole(some<int64_t>(rows * n));
      for (int op = 0; op <= static_cast<int>(ReduceOp::kSumSquares); ++op) {
        CAPTURE(op);
        const auto how = static_cast<ReduceOp>(op);
        equal_on_every_isa<float>(
            rows, [&](const Kernels& table, float* y) { table.reduce_rows(how, x.data(), rows, n, y); });
        equal_on_every_isa<float>(
            n, [&](const Kernels& table, float* y) { table.reduce_columns(how, x.data(), columns, y); });
        equal_on_every_isa<int64_t>(
            n, [&](const Kernels& table, int64_t* y) { table.reduce_i64(how, whole.data(), columns, y); });
      }
      for (const bool flag : {false, true}) {
        equal_on_every_isa<float>(
            rows * n, [&](const Kernels& table, float* y) { table.softmax_f32_rows(x.data(), rows, n, flag, y); });
        equal_on_every_isa<float>(
            rows * n, [&](const Kernels& table, float* y) { table.softmax_f32_columns(x.data(), columns, flag, y); });
        const Normalization how{1e-5f, flag, scale.data(), flag ? scale.data() : nullptr};
        equal_on_every_isa<float>(
            rows * n, [&](const Kernels& table, float* y) { table.normalize_rows(x.data(), rows, n, how, y); });
        for (const bool other : {false, true}) {
          equal_on_every_isa<float>(
              rows * n, [&](const Kernels& table, float* y) { table.cum_sum(x.data(), columns, flag, other, y); });
          equal_on_every_isa<int64_t>(rows * n, [&](const Kernels& table, int64_t* y) {
            table.cum_sum_i64(whole.data(), columns, flag, other, y);
          });
          equal_on_every_isa<int64_t>(
              n, [&](const Kernels& table, int64_t* y) { table.arg_extreme(x.data(), columns, flag, other, y); });
          equal_on_every_isa<int64_t>(n, [&](const Kernels& table, int64_t* y) {
            table.arg_extreme_i64(whole.data(), columns, flag, other, y);
          });
        }
      }
    }
  }
}
