// Element-wise operators on every ISA, tails and special values included.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "elementwise/elementwise.h"
#include "guarded.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {
const size_t kLengths[] = {0, 1, 15, 16, 17, 31, 100, 1000, 70001};

std::vector<float> awkward_floats(size_t n) {
  const float specials[] = {0.0f,
                            -0.0f,
                            0.5f,
                            1.5f,
                            2.5f,
                            -0.5f,
                            1e30f,
                            -1e30f,
                            std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN(),
                            1e-40f};
  std::vector<float> x(n);
  for (auto& v : x) v = uniform(0, 5) == 0 ? specials[uniform(0, 11)] : uniform(-40.0f, 40.0f);
  return x;
}
}  // namespace

TEST_CASE("quantize and dequantize equal their definition") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    const Runtime rt{table, 2};
    for (const size_t n : kLengths) {
      for (const Sign sign : {Sign::kU8, Sign::kS8}) {
        CAPTURE(isa_name(table->isa));
        CAPTURE(n);
        const QuantParams q{uniform(0.01f, 0.5f), sign == Sign::kU8 ? uniform(0, 255) : uniform(-128, 127), sign};
        const int32_t low = sign == Sign::kU8 ? 0 : -128;
        const float lo = static_cast<float>(low - q.zero_point), hi = lo + 255;
        Guarded<float> x(awkward_floats(n)), back(n);
        Guarded<uint8_t> y(n);
        quantize(rt, x.data(), n, q, y.data());
        dequantize(rt, y.data(), n, q, back.data());
        size_t wrong = 0;
        for (size_t i = 0; i < n; ++i) {
          wrong += y.data()[i] != quantized(x.data()[i], q, lo, hi);
          wrong += back.data()[i] != real(y.data()[i], q);
        }
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("a map for each channel is that map on its slices") {
  constexpr ChannelShape kShapes[] = {{1, 1, 5}, {7, 1, 3}, {5, 37, 1}, {3, 4, 15}, {2, 3, 16}, {1, 9, 33}, {2, 0, 4}};
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    const Runtime rt{table, 2};
    for (const ChannelShape& shape : kShapes) {
      CAPTURE(isa_name(table->isa));
      CAPTURE(shape.channels);
      const size_t slices = shape.outer * shape.channels, n = slices * shape.inner;
      std::vector<QuantParams> maps(shape.channels);
      for (auto& map : maps) map = {uniform(0.01f, 0.5f), uniform(-128, 127), Sign::kS8};
      Guarded<float> x(awkward_floats(n)), back(n);
      Guarded<uint8_t> y(n);
      quantize_channels(rt, x.data(), shape, maps.data(), y.data());
      dequantize_channels(rt, y.data(), shape, maps.data(), back.data());
      size_t wrong = 0;
      for (size_t i = 0; i < n; ++i) {
        const QuantParams& map = maps[i / shape.inner % shape.channels];
        const float lo = static_cast<float>(-128 - map.zero_point);
        wrong += y.data()[i] != quantized(x.data()[i], map, lo, lo + 255);
        wrong += back.data()[i] != real(y.data()[i], map);
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("add and lookup equal their definition") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    const Runtime rt{table, 2};
    for (const size_t n : kLengths) {
      CAPTURE(isa_name(table->isa));
      CAPTURE(n);
      const QuantParams qa{0.03f, 5, Sign::kU8}, qb{0.011f, -7, Sign::kS8}, qy{0.04f, 20, Sign::kS8};
      const Bytes a = random_bytes(n), b = random_bytes(n), lut = random_bytes(256);
      Guarded<uint8_t> ga(a), gb(b), y(n), z(n);
      add(rt, ga.data(), qa, gb.data(), qb, n, qy, 0.0f, 107.0f, y.data());
      lookup(rt, ga.data(), n, lut.data(), z.data());
      size_t wrong = 0;
      for (size_t i = 0; i < n; ++i) {
        wrong += y.data()[i] != quantized(real(a[i], qa) + real(b[i], qb), qy, 0.0f, 107.0f);
        wrong += z.data()[i] != lut[a[i]];
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("softmax on a damaged table, or in steps too small for a float, gives the same codes everywhere") {
  constexpr size_t kRows = 3, kColumns = 45;
  std::vector<uint8_t> x(kRows * kColumns);
  for (auto& v : x) v = static_cast<uint8_t>(uniform(0, 255));
  for (const int32_t base : {0, -7, INT32_MIN, INT32_MAX}) {
    std::vector<int32_t> table(256, base);
    for (size_t d = 0; d < table.size(); d += 3) table[d] = d % 2 == 0 ? 1 : 0;
    for (const float scale : {1.0f / 256, std::numeric_limits<float>::denorm_min(), 1e38f}) {
      const QuantParams q = {scale, 0, Sign::kU8};
      std::vector<uint8_t> first;
      for (const Kernels* table_of : tables()) {
        CAPTURE(isa_name(table_of->isa));
        CAPTURE(base);
        CAPTURE(scale);
        std::vector<uint8_t> y(x.size());
        table_of->softmax(x.data(), kRows, kColumns, Sign::kU8, table.data(), q, y.data());
        if (first.empty()) first = y;
        CHECK(y == first);
      }
    }
  }
}

TEST_CASE("the NCHW borders move every value to its place") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const size_t channels : Sizes{1, 3, 35}) {
      const Runtime rt{table, 2};
      const size_t batch = 2, pixels = 300;
      const QuantParams q = channels == 3 ? QuantParams{0.2f, -28, Sign::kS8} : QuantParams{0.2f, 100, Sign::kU8};
      Guarded<float> x(awkward_floats(batch * channels * pixels)), back(x.size());
      Guarded<uint8_t> y(x.size());
      quantize_nchw_to_nhwc(rt, x.data(), batch, channels, pixels, q, y.data());
      dequantize_nhwc_to_nchw(rt, y.data(), batch, channels, pixels, q, back.data());
      size_t wrong = 0;
      for (size_t b = 0; b < batch; ++b) {
        for (size_t c = 0; c < channels; ++c) {
          for (size_t p = 0; p < pixels; ++p) {
            const size_t nchw = (b * channels + c) * pixels + p, nhwc = (b * pixels + p) * channels + c;
            wrong += y.data()[nhwc] != quantized(x.data()[nchw], q, -100, 155);
            wrong += back.data()[nchw] != real(y.data()[nhwc], q);
          }
        }
      }
      CAPTURE(channels);
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("dynamic quantize: symmetric per row, zeros keep scale one") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    const Runtime rt{table, 2};
    const size_t rows = 5, cols = 37;
    std::vector<float> x(rows * cols);
    for (auto& v : x) v = uniform(-3.0f, 3.0f);
    for (size_t i = 0; i < cols; ++i) x[2 * cols + i] = 0.0f;
    std::vector<uint8_t> q(rows * cols);
    std::vector<float> scale(rows);
    dynamic_quantize_rows(rt, x.data(), rows, cols, cols, Sign::kS8, q.data(), cols, scale.data());
    for (size_t r = 0; r < rows; ++r) {
      float peak = 0;
      for (size_t i = 0; i < cols; ++i) peak = std::max(peak, std::fabs(x[r * cols + i]));
      const RowScale by(peak);
      CHECK(scale[r] == by.scale);
      for (size_t i = 0; i < cols; ++i)
        CHECK(q[r * cols + i] == quantized(x[r * cols + i] * by.factor, {1.0f, 0, Sign::kS8}, -127, 127));
    }
  }
}

TEST_CASE("slice and pad move bytes as NumPy does") {
  const size_t shape[4] = {2, 3, 4, 5};
  Bytes x(120);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i);
  const auto at = [&](size_t a, size_t b, size_t c, size_t d) { return x[((a * 3 + b) * 4 + c) * 5 + d]; };
  const size_t sliced_shape[4] = {1, 2, 2, 3};
  const ptrdiff_t start[4] = {1, 0, 3, 4}, step[4] = {1, 2, -2, -2};
  Bytes sliced(12);
  slice4(x.data(), shape, sliced_shape, start, step, sliced.data());
  CHECK(sliced[0] == at(1, 0, 3, 4));
  CHECK(sliced[1] == at(1, 0, 3, 2));
  CHECK(sliced[11] == at(1, 2, 1, 0));
  const size_t padded_shape[4] = {2, 4, 4, 8}, before[4] = {0, 1, 0, 2};
  Bytes padded(256);
  pad4(x.data(), shape, padded_shape, before, 9, padded.data());
  CHECK(padded[0] == 9);
  CHECK(padded[(((1 * 4 + 2) * 4 + 3) * 8) + 6] == at(1, 1, 3, 4));
}

TEST_CASE("every transpose moves bytes as NumPy does, and touches nothing else") {
  const size_t shapes[][4] = {{2, 3, 4, 5}, {1, 70, 1, 300}, {2, 17, 16, 33}, {3, 1, 48, 32}, {1, 1, 1, 7}};
  for (const auto& shape : shapes) {
    int perm[4] = {0, 1, 2, 3};
    do {
      for (const size_t item : {size_t{1}, size_t{4}}) {
        Guarded<uint8_t> x(shape[0] * shape[1] * shape[2] * shape[3] * item), y(x.size());
        for (size_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<uint8_t>(i * 131 >> 3);
        transpose4({&kernels(Isa::kScalar), 3}, x.data(), shape, perm, item, y.data());
        size_t at[4], wrong = 0, to = 0;
        size_t* const index[4] = {at + perm[0], at + perm[1], at + perm[2], at + perm[3]};
        for (*index[0] = 0; *index[0] < shape[perm[0]]; ++*index[0]) {
          for (*index[1] = 0; *index[1] < shape[perm[1]]; ++*index[1]) {
            for (*index[2] = 0; *index[2] < shape[perm[2]]; ++*index[2]) {
              for (*index[3] = 0; *index[3] < shape[perm[3]]; ++*index[3], to += item) {
                const size_t from = ((at[0] * shape[1] + at[1]) * shape[2] + at[2]) * shape[3] + at[3];
                wrong += std::memcmp(y.data() + to, x.data() + from * item, item) != 0;
              }
            }
          }
        }
        CHECK(wrong == 0);
      }
    } while (std::next_permutation(perm, perm + 4));
  }
}

TEST_CASE("threads part a transpose along either axis") {
  for (const auto& [rows, cols] : {std::pair<size_t, size_t>{520, 300}, {300, 520}}) {
    const size_t shape[4] = {2, rows, 1, cols};
    const int perm[4] = {0, 3, 2, 1};
    Bytes x(2 * rows * cols), y(x.size());
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<uint8_t>(i * 131 >> 3);
    transpose4({&kernels(Isa::kScalar), 3}, x.data(), shape, perm, 1, y.data());
    size_t wrong = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const size_t image = i / (rows * cols), r = i / cols % rows, c = i % cols;
      wrong += y[(image * cols + c) * rows + r] != x[i];
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("the transpose of every ISA moves each byte, and touches nothing else") {
  const size_t shapes[][2] = {{1, 1},   {3, 15},   {3, 16},  {3, 50},   {16, 16},   {15, 40},   {40, 15},   {17, 16},
                              {33, 31}, {64, 100}, {95, 49}, {130, 17}, {2048, 16}, {70, 2048}, {16, 4096}, {80, 63}};
  for (const Isa isa : available_isas()) {
    for (const auto& shape : shapes) {
      const size_t rows = shape[0], cols = shape[1];
      CAPTURE(isa_name(isa));
      CAPTURE(rows);
      CAPTURE(cols);
      Guarded<uint8_t> x(rows * cols), y(rows * cols);
      for (size_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<uint8_t>(i * 131 >> 3);
      kernels(isa).transpose(x.data(), rows, cols, cols, y.data(), rows);
      size_t wrong = 0;
      for (size_t r = 0; r < rows; ++r) {
        for (size_t c = 0; c < cols; ++c) wrong += y.data()[c * rows + r] != x.data()[r * cols + c];
      }
      CHECK(wrong == 0);
      for (const size_t ldx : {cols + 5, size_t{4096}}) {  // a patch of wider tensors: bytes beside it stay
        Bytes from(rows * ldx, 1), to((cols + 2) * (rows + 3), 7);
        for (size_t r = 0; r < rows; ++r) std::memcpy(from.data() + r * ldx, x.data() + r * cols, cols);
        kernels(isa).transpose(from.data(), rows, cols, ldx, to.data() + 1, rows + 3);
        wrong = to[0] != 7;
        for (size_t c = 0; c < cols; ++c) {
          const uint8_t* const column = to.data() + 1 + c * (rows + 3);
          wrong += std::memcmp(column, y.data() + c * rows, rows) != 0;
          wrong += column[rows] != 7 || column[rows + 1] != 7 || column[rows + 2] != 7;
        }
        CHECK(wrong == 0);
      }
    }
  }
}
