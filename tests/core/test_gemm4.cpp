// 4-bit weights: every ISA, shapes off every multiple, both maps, one and two threads, against the slow way.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "gemm/gemm4.h"
#include "guarded.h"
#include "machines.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

struct Operands {
  PackedShape4 shape;
  std::vector<int8_t> w;                 // (k, n)
  std::vector<float> scale, zero_point;  // (groups, n), all of them float16 values
  AlignedBuffer packed;
  float unit = 1.0f;
};

Operands make_operands(size_t n, size_t k, size_t group, bool asymmetric) {
  Operands o;
  o.shape = {n, k, group, asymmetric};
  o.w.resize(k * n);
  for (auto& v : o.w) v = static_cast<int8_t>(uniform(0, 3) == 0 ? (uniform(0, 1) == 0 ? -8 : 7) : uniform(-8, 7));
  for (size_t i = 0; i < o.shape.groups() * n; ++i) {
    o.scale.push_back(std::ldexp(static_cast<float>(uniform(1024, 2047)), uniform(-18, -14)));
    o.zero_point.push_back(static_cast<float>(uniform(-64, 64)) / 8.0f);
  }
  const float largest = o.scale.empty() ? 1.0f : *std::max_element(o.scale.begin(), o.scale.end());
  o.unit = unit_of_scales(largest);
  size_t bytes = 0;
  REQUIRE(o.shape.bytes(&bytes));
  o.packed = AlignedBuffer(bytes);
  pack_weights4(o.shape, o.w.data(), static_cast<ptrdiff_t>(n), 1, o.scale.data(), o.unit,
                asymmetric ? o.zero_point.data() : nullptr, o.packed.data());
  return o;
}

RowScale scale_of(const float* x, size_t begin, size_t end) {
  float peak = 0;
  for (size_t k = begin; k < end; ++k) peak = std::max(peak, std::fabs(x[k]));
  return RowScale(peak);
}

/// One element of C by the definition.
float element(const Operands& o, const Gemm4Args& args, size_t row, size_t col) {
  const PackedShape4& s = o.shape;
  const float* x = args.x + row * args.ldx;
  float y = 0, run_sum = 0;
  for (size_t g = 0; g < s.groups(); ++g) {
    const size_t begin = g * s.group, end = std::min(s.k, begin + s.group);
    const size_t run_begin = begin / kW4Run * kW4Run, run_end = std::min(s.k, run_begin + kW4Run);
    const RowScale by = args.scale_per_row ? scale_of(x, 0, s.k) : scale_of(x, run_begin, run_end);
    int32_t dot = 0, sum = 0;
    for (size_t k = begin; k < end; ++k) {
      const int32_t q = rne(clamp(x[k] * by.factor, -128.0f, 127.0f));
      dot += q * o.w[k * s.n + col];
      sum += q;
    }
    float term = static_cast<float>(dot);
    if (s.asymmetric) term = std::fma(-o.zero_point[g * s.n + col], static_cast<float>(sum), term);
    run_sum = std::fma(term, o.scale[g * s.n + col] / o.unit, run_sum);
    if (end < run_end) continue;
    y = std::fma(run_sum, by.scale * o.unit, y);
    run_sum = 0;
  }
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
          const Operands o = make_operands(s.n, s.k, group, asymmetric);
          std::vector<float> x(s.m * s.k), bias(s.n);
          for (auto& v : x) v = uniform(-3.0f, 3.0f) * (uniform(0, 20) == 0 ? 30.0f : 1.0f);
          for (auto& v : bias) v = uniform(-5.0f, 5.0f);
          Guarded<float> guarded_x(x), guarded_bias(bias), c(s.m * s.n);
          for (const int threads : {1, 2}) {
            Gemm4Args args;
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

TEST_CASE("gemm4 gives the same bits for any number of threads, any cut of rows and panels, on any machine") {
  const Operands o = make_operands(700, 512, 32, true);
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
