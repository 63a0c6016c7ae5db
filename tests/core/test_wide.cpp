// 16-bit activations: their bytes, and exact products put together, against the slow way and guard pages.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "conv/conv_wide.h"
#include "gemm/gemm_wide.h"
#include "guarded.h"
#include "machines.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
const WideParams kCodes[] = {{0.001f, 30000, false}, {0.001f, -7, true}, {0.01f, 65535, false}, {0.5f, -32768, true}};

std::vector<float> floats(size_t count) {
  std::vector<float> values(count);
  for (auto& v : values) v = uniform(-40.0f, 40.0f);
  return values;
}

/// Steps from the zero point.
int64_t steps_of(float x, const WideParams& q) {
  const auto lo = static_cast<float>(q.least() - q.zero_point);
  return rne(clamp(x / q.scale, lo, lo + 65535.0f));
}

}  // namespace

TEST_CASE("codes of 16 bits are split into their bytes") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const WideParams& q : kCodes) {
      for (const size_t n : std::initializer_list<size_t>{0, 1, 15, 16, 17, 63, 130}) {
        CAPTURE(isa_name(table->isa));
        CAPTURE(n);
        std::vector<float> values = floats(n);
        const float odd[] = {NAN, kInf, -kInf, 0.0f, q.scale / 2, 1e30f};
        for (size_t i = 0; i < n && i < std::size(odd); ++i) values[i] = odd[i];
        Guarded<float> x(values);
        for (const Sign sign : {Sign::kU8, Sign::kS8}) {
          Guarded<uint8_t> high(n), low(n);
          table->split_codes(x.data(), n, q, sign, high.data(), low.data());
          for (size_t i = 0; i < n; ++i) {
            const int shift = sign == Sign::kS8 ? 128 : 0;
            const int code = 256 * (value(high.data()[i], sign) + shift) + value(low.data()[i], sign) + shift;
            CHECK(code == steps_of(x.data()[i], q) + q.from_least());
          }
        }
      }
    }
  }
}

TEST_CASE("a product of 16 bits is exact, whoever takes its rows") {
  struct Shape {
    size_t m, k, n;
  };
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Shape& s : {Shape{1, 9, 17}, Shape{5, 64, 130}, Shape{230, 33, 20}, Shape{0, 4, 4}}) {
      for (const WideParams& q : kCodes) {
        CAPTURE(isa_name(table->isa));
        CAPTURE(s.m);
        Guarded<float> x(floats(s.m * s.k)), multiplier(round_up(s.n, kStrip)), bias(s.n), addend(floats(s.m * s.n));
        for (size_t i = 0; i < s.n; ++i)
          multiplier.data()[i] = uniform(1e-6f, 1e-5f), bias.data()[i] = uniform(-1.0f, 1.0f);
        const std::vector<int8_t> w = random_weights(s.n * s.k);
        const PackedShape shape{s.n, 1, s.k};
        size_t bytes = 0;
        REQUIRE(shape.bytes(&bytes));
        Guarded<uint8_t> packed(bytes);
        pack_weights(shape, w.data(), static_cast<ptrdiff_t>(s.k), 0, 1, packed.data());
        GemmWideArgs args;
        args.m = s.m;
        args.x = x.data();
        args.q = q;
        args.b = {shape, packed.data()};
        Guarded<double> start(s.n);
        make_wide_start(*table, q, args.b.colsum(), s.n, start.data());
        args.start = start.data();
        args.epilogue.kind = OutKind::kFloat32;
        args.epilogue.lo = -10.0f;
        args.epilogue.hi = kInf;
        args.epilogue.multiplier = multiplier.data();
        args.epilogue.bias = bias.data();
        args.epilogue.addend = addend.data();
        args.epilogue.addend_ld = s.n;
        for (const int threads : {1, 2}) {
          const OnMachine cut_fine(kMachines[0]);
          const Runtime rt{table, threads};
          Guarded<uint8_t> scratch(gemm_wide_scratch_bytes(rt, args));
          Guarded<float> c(s.m * s.n);
          args.c = c.data();
          gemm_wide(rt, args, scratch.data());
          for (size_t i = 0; i < s.m * s.n; ++i) {
            int64_t sum = 0;
            for (size_t k = 0; k < s.k; ++k) sum += steps_of(x.data()[i / s.n * s.k + k], q) * w[i % s.n * s.k + k];
            const float y = static_cast<float>(sum) * multiplier.data()[i % s.n] + bias.data()[i % s.n];
            CHECK(c.data()[i] == clamp_real(y, -10.0f, kInf) + addend.data()[i]);
          }
        }
      }
    }
  }
}
