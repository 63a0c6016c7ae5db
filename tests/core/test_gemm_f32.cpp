// float32 products: every ISA, shapes off every multiple, one and two threads, against one fused multiply-add after the
// other; and the fused multiply-add itself.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "gemm/gemm_f32.h"
#include "guarded.h"
#include "machines.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

std::vector<float> floats(size_t count) {
  std::vector<float> values(count);
  for (auto& v : values) v = std::ldexp(uniform(-1.0f, 1.0f), uniform(-12, 12));
  return values;
}

struct Shape {
  size_t m, n, k;
};
const Shape kShapes[] = {{1, 1, 1},    {1, 64, 32},  {1, 200, 300}, {2, 65, 64},  {3, 16, 513}, {5, 48, 255},
                         {6, 70, 256}, {7, 129, 31}, {13, 64, 257}, {97, 33, 65}, {200, 17, 9}, {37, 3, 300},
                         {9, 8, 20},   {3, 5, 0},    {0, 8, 64},    {4, 0, 3}};

/// What every product here is held to.
std::vector<float> slow(const Shape& s, const float* a, size_t lda, const float* w) {
  std::vector<float> c(s.m * s.n, 0.0f);
  for (size_t row = 0; row < s.m; ++row) {
    for (size_t col = 0; col < s.n; ++col) {
      float& y = c[row * s.n + col];
      for (size_t k = 0; k < s.k; ++k) y = std::fma(a[row * lda + k], w[k * s.n + col], y);
    }
  }
  return c;
}

struct Packed {
  Guarded<float> floats;
  F32Weights weights;

  Packed(const Kernels& table, const Shape& s, const float* w, ptrdiff_t stride_k, ptrdiff_t stride_n)
      : floats(size_of(s)), weights{s.k, s.n, floats.data()} {
    pack_f32({&table, 1}, s.k, s.n, w, stride_k, stride_n, floats.data());
  }
  static size_t size_of(const Shape& s) {
    size_t count = 0;
    REQUIRE(f32_packed_floats(s.k, s.n, &count));
    return count;
  }
};

F32Args args_of(const Shape& s, const float* a, size_t lda, const Packed& b, void* c, size_t ldc) {
  F32Args args;
  args.m = s.m;
  args.a = a;
  args.lda = lda;
  args.b = b.weights;
  args.epilogue.kind = OutKind::kFloat32;
  args.epilogue.lo = -kInf;
  args.epilogue.hi = kInf;
  args.c = c;
  args.ldc = ldc;
  return args;
}

bool same_bits(const float* a, const float* b, size_t count) {
  return count == 0 || std::memcmp(a, b, count * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("a float product is one chain of fused multiply-adds on every ISA, for any blocks and threads") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Shape& s : kShapes) {
      for (const size_t gap : Sizes{0, 3}) {
        CAPTURE(isa_name(table->isa));
        CAPTURE(s.m);
        CAPTURE(s.n);
        CAPTURE(s.k);
        const size_t lda = s.k + gap;
        const std::vector<float> w = floats(s.k * s.n);
        Guarded<float> a(floats(s.m == 0 ? 0 : (s.m - 1) * lda + s.k));
        const Packed b(*table, s, w.data(), static_cast<ptrdiff_t>(s.n), 1);
        const std::vector<float> expected = slow(s, a.data(), lda, w.data());
        for (const int threads : {1, 2}) {
          const OnMachine cut_fine(kMachines[0]);
          Guarded<float> c(s.m * s.n);
          gemm_f32({table, threads}, args_of(s, a.data(), lda, b, c.data(), s.n * sizeof(float)));
          CHECK(same_bits(c.data(), expected.data(), expected.size()));
        }
      }
    }
  }
}

TEST_CASE("a float product ends as its epilogue says") {
  for (const Kernels* table : tables()) {
    const RunsOn only(*table);
    for (const Shape& s : {Shape{7, 37, 300}, Shape{1, 130, 40}}) {
      CAPTURE(isa_name(table->isa));
      const std::vector<float> w = floats(s.k * s.n), a = floats(s.m * s.k);
      Guarded<float> bias(floats(s.n)), addend(floats(s.m * s.n)), c(s.m * s.n);
      const Packed b(*table, s, w.data(), static_cast<ptrdiff_t>(s.n), 1);
      std::vector<float> expected = slow(s, a.data(), s.k, w.data());
      for (size_t i = 0; i < expected.size(); ++i) {
        expected[i] = std::min(std::max(expected[i] + bias.data()[i % s.n], -50.0f), 60.0f) + addend.data()[i];
      }
      F32Args args = args_of(s, a.data(), s.k, b, c.data(), s.n * sizeof(float));
      args.epilogue.bias = bias.data();
      args.epilogue.addend = addend.data();
      args.epilogue.addend_ld = s.n;
      args.epilogue.lo = -50.0f;
      args.epilogue.hi = 60.0f;
      gemm_f32({table, 1}, args);
      CHECK(same_bits(c.data(), expected.data(), expected.size()));

      Guarded<uint8_t> bytes(s.m * s.n);  // no float32 C to wait in
      args.epilogue.kind = OutKind::kRealQuantized;
      args.epilogue.out = {0.5f, 100, Sign::kU8};
      args.c = bytes.data();
      args.ldc = s.n;
      gemm_f32({table, 2}, args);
      for (size_t i = 0; i < expected.size(); ++i) {
        const float q = std::min(std::max(std::nearbyint(expected[i] / 0.5f), -100.0f), 155.0f) + 100.0f;
        REQUIRE(bytes.data()[i] == static_cast<uint8_t>(q));
      }
    }
  }
}

TEST_CASE("weights are packed from any strides") {
  const Shape s = {5, 21, 30};
  const Kernels& table = *tables().front();
  const std::vector<float> w = floats(s.k * s.n), a = floats(s.m * s.k);
  std::vector<float> turned(w.size()), c(s.m * s.n);
  for (size_t k = 0; k < s.k; ++k) {
    for (size_t n = 0; n < s.n; ++n) turned[(s.n - 1 - n) * s.k + k] = w[k * s.n + n];
  }
  const Packed b(table, s, turned.data() + (s.n - 1) * s.k, 1, -static_cast<ptrdiff_t>(s.k));
  gemm_f32({&table, 1}, args_of(s, a.data(), s.k, b, c.data(), s.n * sizeof(float)));
  const std::vector<float> expected = slow(s, a.data(), s.k, w.data());
  CHECK(same_bits(c.data(), expected.data(), c.size()));
}

TEST_CASE("a fused multiply-add is rounded once, in the subnormals, at the ties and at both ends, on every ISA") {
  const float tiny = std::numeric_limits<float>::denorm_min(), small = std::numeric_limits<float>::min();
  const float top = std::numeric_limits<float>::max(), just = 1.0f + std::ldexp(1.0f, -23);
  std::vector<float> odd = {0.0f, -0.0f, tiny, -tiny, small, -small, 1.5f * small, top,  -top,    kInf,  -kInf,
                            1.0f, -1.0f, just, -just, 0.5f,  1e-20f, 1e20f,        3.0f, -1e-38f, 2e-45f};
  for (int i = 0; i < 40; ++i) odd.push_back(std::ldexp(uniform(-1.0f, 1.0f), uniform(-149, 120)));
  for (int i = 0; i < 20; ++i) odd.push_back(1.0f + std::ldexp(static_cast<float>(uniform(1, 7)), -uniform(10, 23)));
  // x * w + y as a product of two k: 1 * y, then x * w.
  const size_t count = odd.size();
  const Shape s = {count, count, 2};
  for (const Kernels* table : tables()) {
    CAPTURE(isa_name(table->isa));
    size_t compared = 0;
    for (const float y : odd) {
      std::vector<float> a, w(2 * count, y), c(count * count);
      for (const float x : odd) a.insert(a.end(), {1.0f, x});
      std::copy(odd.begin(), odd.end(), w.begin() + static_cast<ptrdiff_t>(count));
      const Packed b(*table, s, w.data(), static_cast<ptrdiff_t>(count), 1);
      gemm_f32({table, 1}, args_of(s, a.data(), 2, b, c.data(), count * sizeof(float)));
      for (size_t i = 0; i < c.size(); ++i) {
        const float expected = std::fma(odd[i / count], odd[i % count], std::fma(1.0f, y, 0.0f));
        CAPTURE(odd[i / count]);
        CAPTURE(odd[i % count]);
        CAPTURE(y);
        if (std::isnan(expected)) {
          REQUIRE(std::isnan(c[i]));
        } else {
          REQUIRE(same_bits(&c[i], &expected, 1));
        }
        ++compared;
      }
    }
    CHECK(compared == count * count * count);
  }
}
