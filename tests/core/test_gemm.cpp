// GEMM and its epilogues: every ISA, every shape class, both signs, one and two threads, against the slow way.
#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "gemm/gemm.h"
#include "guarded.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

struct Shape {
  size_t m, n, k;
};
const Shape kShapes[] = {{1, 1, 1},      {6, 64, 64},   {7, 65, 65},    {1, 200, 130}, {13, 16, 3},
                         {5, 4, 1001},   {64, 64, 64},  {31, 130, 37},  {3, 3, 0},     {2, 80, 8191},
                         {260, 300, 20}, {11, 48, 6},   {13, 200, 1},   {260, 330, 4}, {7, 70, 5},
                         {8, 64, 8},     {8, 0, 8},     {1, 0, 8},      {9, 33, 7},    {6, 64, 10},
                         {13, 70, 15},   {53, 144, 16}, {101, 113, 24}, {49, 40, 32},  {50, 7, 8}};

AlignedBuffer packed(const PackedShape& shape, const std::vector<int8_t>& w) {
  size_t bytes = 0;
  REQUIRE(shape.bytes(&bytes));
  AlignedBuffer out(bytes);
  pack_weights(shape, w.data(), static_cast<ptrdiff_t>(shape.k_per_tap), 0, 1, out.data());  // w is (n, k)
  return out;
}

int32_t accumulate(const Bytes& a, Sign sign, int32_t za, const std::vector<int8_t>& w, size_t k, size_t row,
                   size_t col, int32_t start) {
  for (size_t i = 0; i < k; ++i) start = wrap_add(start, int64_t{value(a[row * k + i], sign) - za} * w[col * k + i]);
  return start;
}

}  // namespace

TEST_CASE("gemm equals the slow way on every ISA, for every kind of output") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Shape& s : kShapes) {
      for (const Sign sign : {Sign::kU8, Sign::kS8}) {
        CAPTURE(isa_name(table->isa));
        CAPTURE(s.m);
        CAPTURE(s.n);
        CAPTURE(s.k);
        const PackedShape shape{s.n, 1, s.k};
        const Bytes a = random_bytes(s.m * s.k);
        const std::vector<int8_t> w = random_weights(s.n * s.k);
        const AlignedBuffer weights = packed(shape, w);
        const int32_t za = sign == Sign::kU8 ? uniform(0, 255) : uniform(-128, 127);
        const size_t padded = shape.padded_n();
        std::vector<int32_t> bias(padded), init(padded);
        std::vector<float> multiplier(padded), real_bias(padded), row_scale(s.m);
        for (size_t i = 0; i < s.n; ++i) {
          bias[i] = uniform(-100000, 100000);
          multiplier[i] = uniform(1e-5f, 3e-3f);
          real_bias[i] = uniform(-5.0f, 5.0f);
        }
        for (auto& v : row_scale) v = uniform(0.5f, 2.0f);
        make_init(*table, sign, za, reinterpret_cast<const int32_t*>(weights.data() + shape.colsum_offset()),
                  bias.data(), s.n, init.data());
        const Bytes residual = random_bytes(s.m * s.n);

        Guarded<uint8_t> guarded_a(a);
        GemmArgs args;
        args.m = s.m;
        args.a = guarded_a.data();
        args.lda = s.k;
        args.a_sign = sign;
        args.b = {shape, weights.data()};
        args.init = init.data();

        for (const int threads : {1, 2}) {
          const Runtime rt{table, threads};
          const auto check = [&](auto* c, auto&& pick) {
            size_t wrong = 0;
            for (size_t row = 0; row < s.m; ++row) {
              for (size_t col = 0; col < s.n; ++col) {
                const int32_t acc = accumulate(a, sign, za, w, s.k, row, col, bias[col]);
                wrong += c[row * s.n + col] != pick(store(acc, args.epilogue, row, col, col));
              }
            }
            CHECK(wrong == 0);
          };
          {
            Guarded<int32_t> c(s.m * s.n);
            args.c = c.data();
            args.ldc = s.n * 4;
            args.epilogue = {};
            gemm(rt, args);
            check(c.data(), [](const Stored& v) { return v.i; });
          }
          for (const bool with_residual : {false, true}) {
            Guarded<uint8_t> c(s.m * s.n), r(residual);
            args.c = c.data();
            args.ldc = s.n;
            Epilogue e;
            e.kind = OutKind::kQuantized;
            e.multiplier = multiplier.data();
            e.out = {0.05f, sign == Sign::kU8 ? 117 : -3, sign};
            const float low = sign == Sign::kU8 ? 0.0f : -128.0f;
            e.lo = low - static_cast<float>(e.out.zero_point);
            e.hi = low + 255.0f - static_cast<float>(e.out.zero_point);
            if (!with_residual) {  // bounds of an activation, inside the type's range
              e.lo += 31;
              e.hi -= 60;
            } else {
              e.residual = r.data();
              e.residual_ld = s.n;
              e.residual_q = {0.031f, 12, Sign::kS8};
              e.sum_q = {0.07f, 100, Sign::kU8};
              e.sum_lo = 0;
              e.sum_hi = 155;
            }
            args.epilogue = e;
            gemm(rt, args);
            check(c.data(), [](const Stored& v) { return v.q; });
          }
          {
            Guarded<float> c(s.m * s.n);
            args.c = c.data();
            args.ldc = s.n * 4;
            Epilogue e;
            e.kind = OutKind::kFloat32;
            e.multiplier = multiplier.data();
            e.bias = real_bias.data();
            e.row_scale = row_scale.data();
            e.lo = -10.0f;
            e.hi = std::numeric_limits<float>::infinity();
            args.epilogue = e;
            gemm(rt, args);
            check(c.data(), [](const Stored& v) { return v.f; });
          }
        }
      }
    }
  }
}

namespace {

/// gemm_tile and gemm_spread, or gemm_thin, on operands that end where memory does, against sums one by one.
void check_small(const Kernels& table, bool thin, size_t taps, size_t k, size_t rows, size_t cols, bool flip) {
  CAPTURE(isa_name(table.isa));
  CAPTURE(thin);
  CAPTURE(taps);
  CAPTURE(k);
  CAPTURE(rows);
  CAPTURE(cols);
  CAPTURE(flip);
  const Sign sign = (table.native_sign == Sign::kU8) != flip ? Sign::kU8 : Sign::kS8;
  // x ^ 0x80 with the native sign: int8 as uint8 is 128 more, uint8 as int8 is 128 less.
  const int32_t shift = !flip ? 0 : table.native_sign == Sign::kU8 ? 128 : -128;
  const size_t padded = round_up(cols, kStrip), quads = ceil_div(k, size_t{4});
  Guarded<uint8_t> a(random_bytes(taps * rows * k));
  std::vector<int8_t> lines = random_weights(taps * quads * padded * 4);  // [tap][quad][column][4]
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i / (padded * 4) % quads * 4 + i % 4 >= k) lines[i] = 0;
  }
  Guarded<int8_t> b(lines);
  std::vector<int32_t> starts(padded);
  for (auto& v : starts) v = uniform(-1000, 1000);
  Guarded<int32_t> init(starts), c(rows * cols);
  std::vector<const uint8_t*> a_rows(taps * rows);
  for (size_t i = 0; i < a_rows.size(); ++i) a_rows[i] = a.data() + i * k;
  GemmTile t{};
  t.a = a_rows.data();
  t.rows = rows;
  t.taps = taps;
  t.k = k;
  t.b = b.data();
  t.b_step = padded * 4;
  t.init = init.data();
  t.strips = padded / kStrip;
  t.cols = cols;
  t.c = c.data();
  t.ldc = cols * sizeof(int32_t);
  t.flip = flip;
  const auto check = [&] {
    for (size_t r = 0; r < rows; ++r) {
      for (size_t n = 0; n < cols; ++n) {
        int32_t sum = starts[n];
        for (size_t i = 0; i < taps * k; ++i) {
          const size_t tap = i / k, at = i % k;
          sum += (value(a_rows[tap * rows + r][at], sign) + shift) *
                 lines[((tap * quads + at / 4) * padded + n) * 4 + at % 4];
        }
        REQUIRE(c.data()[r * cols + n] == sum);
      }
    }
  };
  thin ? table.gemm_thin(t) : table.gemm_tile(t, Epilogue{});
  check();
  if (thin || table.gemm_spread == nullptr) return;
  std::fill(c.data(), c.data() + rows * cols, 0);
  const size_t stride = taps * quads * 4;
  Guarded<int16_t> room(std::vector<int16_t>(rows * stride + kSpreadSlack, -1));
  table.spread_rows(t, room.data(), stride);
  t.spread = room.data();
  t.spread_stride = stride;
  table.gemm_spread(t, Epilogue{});
  check();
}

}  // namespace

TEST_CASE("small shapes: gemm_tile over taps and few columns, gemm_thin over any columns, inside their operands") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const bool flip : {false, true}) {
      const size_t whole = table->tile_strips * kStrip;
      for (const size_t taps : Sizes{1, 2, 3}) {
        for (size_t k = 1; k <= 21; ++k) {
          for (const size_t cols : {whole, whole - 3}) {
            check_small(*table, false, taps, k, 1, cols, flip);
            check_small(*table, false, taps, k, table->tile_rows, cols, flip);
          }
        }
      }
      for (const size_t k : Sizes{79, 80, 93, 95, 96, 97, 131}) {  // few columns, several quads of them at once
        for (const size_t cols : Sizes{1, 4, 5}) {
          for (size_t rows = 1; rows <= table->tile_rows; ++rows) check_small(*table, false, 2, k, rows, cols, flip);
        }
      }
      for (size_t k = 1; k <= 4; ++k) {
        for (const size_t cols : Sizes{1, 16, 17, 64, 70, 200}) {
          for (const size_t rows : Sizes{1, 3, 6}) check_small(*table, true, 1, k, rows, cols, flip);
        }
      }
    }
  }
}

TEST_CASE("gemv gives the bits of gemm_tile, some panels at a time, and stays inside its operands") {
  std::vector<float> multiplier(kGemvPanels * kPanel), row_scale = {0.75f};
  for (auto& v : multiplier) v = uniform(1e-5f, 3e-3f);
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const size_t k : Sizes{0, 1, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 37, 64, 1000}) {
      for (const bool flip : {false, true}) {
        for (const OutKind kind : {OutKind::kInt32, OutKind::kQuantized, OutKind::kFloat32, OutKind::kBfloat16}) {
          CAPTURE(isa_name(table->isa));
          CAPTURE(k);
          CAPTURE(flip);
          Epilogue e;
          e.kind = kind;
          e.multiplier = multiplier.data();
          e.row_scale = row_scale.data();
          e.lo = -100.0f;
          e.hi = 100.0f;
          const size_t line = kPanel * (out_bytes(e, kPanel) / kPanel);
          Guarded<uint8_t> a(random_bytes(k));
          const uint8_t* const row = a.data();
          std::vector<std::unique_ptr<Guarded<int8_t>>> panels;
          for (size_t p = 0; p < kGemvPanels; ++p) {
            panels.push_back(std::make_unique<Guarded<int8_t>>(random_weights(round_up(k, 4) * kPanel)));
          }
          std::vector<int32_t> init(kGemvPanels * kPanel);
          for (auto& v : init) v = uniform(-1000, 1000);
          Guarded<uint8_t> c(kGemvPanels * line), expected(kGemvPanels * line);
          GemmTile tiles[kGemvPanels];
          for (size_t p = 0; p < kGemvPanels; ++p) {
            GemmTile& t = tiles[p];
            t = {};
            t.a = &row;
            t.rows = t.taps = 1;
            t.k = k;
            t.b = panels[p]->data();
            t.b_step = kPanel * 4;
            t.init = init.data() + p * kPanel;
            t.cols = kPanel;
            t.col0 = p * kPanel;
            t.ldc = kGemvPanels * line;
            t.flip = flip;
            for (size_t strip = 0; strip < kPanel / kStrip; strip += table->tile_strips) {
              GemmTile part = t;
              part.b += strip * 64;
              part.init += strip * kStrip;
              part.strips = table->tile_strips;
              part.cols = part.strips * kStrip;
              part.col0 += strip * kStrip;
              part.c = expected.data() + p * line + out_bytes(e, strip * kStrip);
              table->gemm_tile(part, e);
            }
            t.strips = kPanel / kStrip;
            t.c = c.data() + p * line;
          }
          table->gemv(tiles, e);
          CHECK(c.values() == expected.values());
        }
      }
    }
  }
}

TEST_CASE("gemm wraps modulo 2^32 for a K past the int32 range") {
  const size_t k = 140'000;
  const std::vector<int8_t> w(2 * k, -128);
  const PackedShape shape{2, 1, k};
  const AlignedBuffer weights = packed(shape, w);
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Sign sign : {Sign::kU8, Sign::kS8}) {
      CAPTURE(isa_name(table->isa));
      const Bytes a(k, sign == Sign::kU8 ? 255 : 0x80);
      int32_t init[16], c[2] = {};
      make_init(*table, sign, 0, reinterpret_cast<const int32_t*>(weights.data() + shape.colsum_offset()), nullptr, 2,
                init);
      GemmArgs args;
      args.m = 1;
      args.a = a.data();
      args.lda = k;
      args.a_sign = sign;
      args.b = {shape, weights.data()};
      args.init = init;
      args.c = c;
      args.ldc = 8;
      gemm({table, 1}, args);
      const int64_t exact = int64_t{140'000} * (sign == Sign::kU8 ? 255 : -128) * -128;
      CHECK(c[0] == static_cast<int32_t>(static_cast<uint32_t>(exact)));
      CHECK(c[1] == c[0]);
    }
  }
}

namespace {

/// The tiles that a product has run, from a table that notes them.
struct Noted {
  static inline std::mutex mutex;
  static inline std::vector<GemmTile> tiles;
  static inline const Kernels* table = nullptr;

  static void gemm_tile(const GemmTile& tile, const Epilogue& epilogue) {
    table->gemm_tile(tile, epilogue);
    note(tile);
  }
  static void gemm_spread(const GemmTile& tile, const Epilogue& epilogue) {
    table->gemm_spread(tile, epilogue);
    note(tile);
  }
  static void note(const GemmTile& tile) {
    const std::lock_guard<std::mutex> lock(mutex);
    tiles.push_back(tile);
  }
};

}  // namespace

TEST_CASE("the plan that is listed is what the host does, block by block") {
  for (const Kernels* table : tables()) {
    Kernels noting = *table;
    noting.gemm_tile = Noted::gemm_tile;
    if (noting.gemm_spread != nullptr) noting.gemm_spread = Noted::gemm_spread;
    Noted::table = table;
    for (const Shape& s : {Shape{520, 600, 40}, Shape{257, 300, 64}, Shape{270, 512 + 48, 7}, Shape{5, 260, 60},
                           Shape{256, 256, 64}, Shape{3, 40, 8}, Shape{2, 300, 0}}) {
      const TilePlan plan = make_tile_plan(s.m, s.n, s.k, kMacroTile, *find_device("host"));
      const PackedShape shape{s.n, 1, s.k};
      const AlignedBuffer weights = packed(shape, random_weights(s.n * s.k));
      const Bytes a = random_bytes(s.m * s.k);
      std::vector<int32_t> init(shape.padded_n()), c(s.m * s.n);
      const std::optional<Unit> asked[] = {std::nullopt, Unit::kCube, Unit::kVector};  // the bench asks for one
      for (const int way : {0, 1, 2, 3}) {
        const int threads = way == 3 ? 3 : 1;
        CAPTURE(isa_name(table->isa));
        CAPTURE(s.m);
        CAPTURE(s.n);
        CAPTURE(way);
        Noted::tiles.clear();
        GemmArgs args;
        args.m = s.m;
        args.a = a.data();
        args.lda = s.k;
        args.a_sign = table->native_sign;
        args.b = {shape, weights.data()};
        args.init = init.data();
        args.c = c.data();
        args.ldc = s.n * sizeof(int32_t);
        args.unit = asked[way % 3];
        REQUIRE(std::string(gemm_path({&noting, threads}, args)) == "tile");
        gemm({&noting, threads}, args);
        std::vector<int> times(s.m * s.n);
        for (const GemmTile& t : Noted::tiles) {
          for (size_t i = 0; i < t.rows * t.cols; ++i) ++times[(t.row0 + i / t.cols) * s.n + t.col0 + i % t.cols];
        }
        CHECK(std::count(times.begin(), times.end(), 1) == static_cast<ptrdiff_t>(times.size()));
        for (const TileBlock& block : plan.blocks) {
          size_t widest = 0;
          for (const GemmTile& t : Noted::tiles) {
            const bool inside =
                t.row0 >= block.row0 && t.row0 < block.row1 && t.col0 >= block.col0 && t.col0 < block.col1;
            if (inside) widest = std::max(widest, t.strips);
          }
          const size_t strips = ceil_div(block.col1 - block.col0, kStrip);
          CHECK(widest == (args.unit.value_or(block.unit) == Unit::kCube ? std::min(strips, table->tile_strips) : 1));
          CHECK(block.unit == host_unit(block.row1 - block.row0, block.col1 - block.col0, s.k));
        }
      }
    }
  }
}

TEST_CASE("a block of any size is of the unit that the list says") {
  const DeviceProfile& host = *find_device("host");
  for (int i = 0; i < 5000; ++i) {
    const auto side = [] { return static_cast<size_t>(uniform(1, uniform(0, 1) == 0 ? 24 : 256)); };
    const size_t rows = side(), cols = side(), k = static_cast<size_t>(uniform(0, i % 10 == 0 ? 1'000'000'000 : 300));
    const TilePlan plan = make_tile_plan(rows, cols, k, kMacroTile, host);
    REQUIRE(plan.blocks.size() == 1);
    CHECK(host_unit(rows, cols, k) == plan.blocks[0].unit);
  }
}

TEST_CASE("packed weights: strides on both axes, padding is zero, sums are right") {
  const PackedShape shape{70, 3, 5};
  const std::vector<int8_t> w = random_weights(70 * 3 * 5);
  size_t bytes = 0;
  REQUIRE(shape.bytes(&bytes));
  AlignedBuffer by_n(bytes), by_k(bytes);
  std::vector<int8_t> turned(w.size());  // (k, tap, n)
  for (size_t n = 0; n < 70; ++n) {
    for (size_t t = 0; t < 3; ++t) {
      for (size_t k = 0; k < 5; ++k) turned[(k * 3 + t) * 70 + n] = w[(n * 3 + t) * 5 + k];
    }
  }
  pack_weights(shape, w.data(), 15, 5, 1, by_n.data());
  pack_weights(shape, turned.data(), 1, 70, 210, by_k.data());
  CHECK(std::memcmp(by_n.data(), by_k.data(), bytes) == 0);
  const int32_t* sums = reinterpret_cast<const int32_t*>(by_n.data() + shape.colsum_offset());
  for (size_t n = 0; n < shape.padded_n(); ++n) {
    int32_t sum = 0;
    for (size_t i = 0; n < 70 && i < 15; ++i) sum += w[n * 15 + i];
    CHECK(sums[n] == sum);
  }
  PackedShape huge{SIZE_MAX / 2, 1, 1000};
  CHECK_FALSE(huge.bytes(&bytes));
}
