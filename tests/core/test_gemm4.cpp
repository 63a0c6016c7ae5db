// 4-bit weights: every ISA, shapes off every multiple, both maps, one and two threads, against the slow way.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "gemm/gemm4.h"
#include "gemm/pack2.h"
#include "guarded.h"
#include "int4_operands.h"
#include "machines.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

/// One element of C by the definition.
float element(const Operands4& o, const Gemm4Args& args, size_t row, size_t col) {
  float y = sum4(o, args.x + row * args.ldx, col, args.scale_per_row, args.wide);
  if (args.epilogue.bias != nullptr) y = y + args.epilogue.bias[col];
  return clamp_real(y, args.epilogue.lo, args.epilogue.hi);
}

struct Shape {
  size_t m, n, k;
};
const Shape kShapes[] = {{1, 1, 1},   {1, 64, 32},  {1, 200, 130}, {2, 65, 64},  {3, 16, 300}, {5, 48, 33},
                         {6, 70, 96}, {7, 129, 31}, {13, 64, 257}, {40, 33, 65}, {3, 5, 0},    {0, 8, 64}};

}  // namespace

TEST_CASE("gemm4 equals the slow way on every ISA, symmetric and asymmetric, per group and per row") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Shape& s : kShapes) {
      for (const size_t group : Sizes{32, 64, 128}) {
        for (const bool asymmetric : {false, true}) {
          CAPTURE(isa_name(table->isa));
          CAPTURE(s.m);
          CAPTURE(s.n);
          CAPTURE(s.k);
          CAPTURE(group);
          CAPTURE(asymmetric);
          const Operands4 o = make_operands4(s.n, s.k, group, asymmetric);
          std::vector<float> x(s.m * s.k), bias(s.n);
          for (auto& v : x) v = uniform(-3.0f, 3.0f) * (uniform(0, 20) == 0 ? 30.0f : 1.0f);
          for (auto& v : bias) v = uniform(-5.0f, 5.0f);
          Guarded<float> guarded_x(x), guarded_bias(bias), c(s.m * s.n);
          for (const int run : {0, 1, 2, 3}) {
            const int threads = 1 + run % 2;
            Gemm4Args args;
            args.wide = run >= 2;
            args.m = s.m;
            args.x = guarded_x.data();
            args.ldx = s.k;
            args.scale_per_row = threads == 2;
            args.b = {o.shape, o.packed.data(), o.unit};
            args.epilogue.kind = OutKind::kFloat32;
            args.epilogue.bias = threads == 1 ? guarded_bias.data() : nullptr;
            args.epilogue.lo = -20.0f;
            args.epilogue.hi = std::numeric_limits<float>::infinity();
            args.c = c.data();
            args.ldc = s.n * sizeof(float);
            size_t bytes = 0;
            REQUIRE(gemm4_scratch_bytes(args, &bytes));
            Guarded<uint8_t> scratch(std::vector<uint8_t>(round_up(bytes, 64), 0xA5));
            gemm4({table, threads}, args, scratch.data());
            size_t wrong = 0;
            for (size_t row = 0; row < s.m; ++row) {
              for (size_t col = 0; col < s.n; ++col) wrong += c.data()[row * s.n + col] != element(o, args, row, col);
            }
            CHECK(wrong == 0);
          }
        }
      }
    }
  }
}

TEST_CASE("gemm4 gives ternary weights the bits that they have in 4, on every ISA, in one row and in many") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Shape& s : {kShapes[0], kShapes[2], kShapes[5], kShapes[7], kShapes[8], kShapes[9], Shape{1, 300, 300},
                           Shape{2, 65, 129}, Shape{3, 64, 128}, Shape{49, 70, 200}, Shape{3, 5, 0}}) {
      for (const size_t group : Sizes{64, 128}) {
        CAPTURE(isa_name(table->isa));
        CAPTURE(s.m);
        CAPTURE(s.n);
        CAPTURE(s.k);
        CAPTURE(group);
        Operands4 o = make_operands4(s.n, s.k, group, false);
        for (auto& v : o.w) v = static_cast<int8_t>(uniform(-1, 1));
        o.shape.ternary = true;
        size_t bytes = 0;
        REQUIRE(o.shape.bytes(&bytes));
        Guarded<uint8_t> packed(bytes);
        pack_weights2(o.shape, o.w.data(), static_cast<ptrdiff_t>(s.n), 1, o.scale.data(), o.unit, packed.data());
        std::vector<float> x(s.m * s.k);
        for (auto& v : x) v = uniform(-3.0f, 3.0f);
        Guarded<float> guarded_x(x), c(s.m * s.n);
        for (const int threads : {1, 2}) {
          Gemm4Args args;
          args.m = s.m;
          args.x = guarded_x.data();
          args.ldx = s.k;
          args.scale_per_row = threads == 2;
          args.b = {o.shape, packed.data(), o.unit};
          args.epilogue.kind = OutKind::kFloat32;
          args.epilogue.lo = -std::numeric_limits<float>::infinity();
          args.epilogue.hi = std::numeric_limits<float>::infinity();
          args.c = c.data();
          args.ldc = s.n * sizeof(float);
          REQUIRE(gemm4_scratch_bytes(args, &bytes));
          Guarded<uint8_t> scratch(std::vector<uint8_t>(round_up(bytes, 64), 0xA5));
          gemm4({table, threads}, args, scratch.data());
          size_t wrong = 0;
          for (size_t row = 0; row < s.m; ++row) {
            for (size_t col = 0; col < s.n; ++col) wrong += c.data()[row * s.n + col] != element(o, args, row, col);
          }
          CHECK(wrong == 0);
        }
      }
    }
  }
}

TEST_CASE("gemm4 gives the same bits for any number of threads, any cut of rows and panels, on any machine") {
  const Operands4 o = make_operands4(700, 512, 32, true);
  std::vector<float> x(37 * 512);
  for (auto& v : x) v = uniform(-1.0f, 1.0f);
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    std::vector<std::vector<float>> results;
    for (const int threads : {1, 2, 3, 16}) {
      const OnMachine pretended(threads == 2 ? kMachines[0] : threads == 3 ? kMachines[2] : machine());
      std::vector<float> c(37 * 700);
      Gemm4Args args;
      args.m = 37;
      args.x = x.data();
      args.ldx = 512;
      args.b = {o.shape, o.packed.data(), o.unit};
      args.epilogue.kind = OutKind::kFloat32;
      args.epilogue.lo = -std::numeric_limits<float>::infinity();
      args.epilogue.hi = std::numeric_limits<float>::infinity();
      args.c = c.data();
      args.ldc = 700 * sizeof(float);
      size_t bytes = 0;
      REQUIRE(gemm4_scratch_bytes(args, &bytes));
      AlignedBuffer scratch(bytes);
      gemm4({table, threads}, args, scratch.data());
      results.push_back(c);
    }
    for (const auto& c : results) CHECK(c == results.front());
  }
}

TEST_CASE("the scales' unit keeps float16 normal for scales of any size, and sizes that do not fit are refused") {
  for (const float largest : {1e-37f, 1e-12f, 1.0f, 3e38f}) {
    const float unit = unit_of_scales(largest);
    CHECK(largest / unit < 32768.0f);
    CHECK((largest / unit >= 16384.0f || unit == std::numeric_limits<float>::min()));
  }
  size_t bytes = 0;
  PackedShape4 huge{SIZE_MAX / 2, 1000, 32, false};
  CHECK_FALSE(huge.bytes(&bytes));
  Gemm4Args args;
  args.m = SIZE_MAX / 2;
  args.b.shape = {1, 1000, 32, false};
  CHECK_FALSE(gemm4_scratch_bytes(args, &bytes));
}
