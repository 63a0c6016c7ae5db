// linear and its epilogues on every ISA: each against the scalar table, which tests/test_linear.py holds to NumPy, and
// the curves against a checksum, so that machines that never meet agree, too.
#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "allocations.h"
#include "base/buffer.h"
#include "gemm/linear.h"
#include "guarded.h"
#include "reference.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

namespace {

struct Layer {
  PackedShape shape;
  AlignedBuffer weights;
  std::vector<float> scale, x, bias, addend;  // scale is padded
  size_t m;

  Layer(size_t rows, size_t n, size_t k)
      : shape{n, 1, k}, scale(shape.padded_n()), x(rows * k), bias(n), addend(rows * n), m(rows) {
    size_t bytes = 0;
    REQUIRE(shape.bytes(&bytes));
    weights = AlignedBuffer(bytes);
    const std::vector<int8_t> w = random_weights(n * k);
    pack_weights(shape, w.data(), static_cast<ptrdiff_t>(k), 0, 1, weights.data());
    for (size_t i = 0; i < n; ++i) scale[i] = uniform(1e-4f, 1e-2f);
    for (auto* values : {&x, &bias, &addend}) {
      for (auto& v : *values) v = uniform(-3.0f, 3.0f);
    }
  }

  /// C, against a guard page on the way out.
  Bytes run(const Kernels& table, int threads, Epilogue e, bool add) {
    const size_t row = out_bytes(e, shape.n);
    Guarded<uint8_t> c(m * row);
    Guarded<float> guarded_x(x), guarded_bias(bias), guarded_addend(addend);
    std::vector<int32_t> init(shape.padded_n());
    LinearArgs args;
    args.x = guarded_x.data();
    args.ldx = shape.k_per_tap;
    args.gemm.m = m;
    args.gemm.b = {shape, weights.data()};
    args.gemm.init = init.data();
    args.gemm.c = c.data();
    args.gemm.ldc = row;
    e.multiplier = scale.data();
    e.bias = guarded_bias.data();
    if (add) {
      e.addend_ld = out_columns(e, shape.n);
      e.addend = guarded_addend.data() + addend.size() - m * e.addend_ld;
    }
    args.gemm.epilogue = e;
    make_symmetric_init(table, args.gemm.b, init.data());
    const Runtime rt{&table, threads};
    AlignedBuffer scratch(linear_scratch_bytes(rt, args));
    linear(rt, args, scratch.data());
    return c.values();
  }
};

Epilogue epilogue_of(OutKind kind, Activation activation) {
  Epilogue e;
  e.kind = kind;
  e.activation = activation;
  e.lo = -1.5f;
  e.hi = 2.5f;
  e.out = {0.02f, 9, Sign::kS8};
  return e;
}

}  // namespace

TEST_CASE("linear: every kind and activation has the same bits on every ISA and for any number of threads") {
  const size_t shapes[][3] = {{1, 16, 4}, {7, 130, 33}, {13, 64, 147}, {300, 70, 21}, {5, 22, 0}};
  for (const auto& s : shapes) {
    Layer layer(s[0], s[1], s[2]);
    for (const OutKind kind : {OutKind::kFloat32, OutKind::kFloat16, OutKind::kBfloat16, OutKind::kRealQuantized}) {
      for (const Activation activation :
           {Activation::kClamp, Activation::kGelu, Activation::kGeluTanh, Activation::kSilu, Activation::kSwiglu}) {
        for (const bool add : {false, true}) {
          const Epilogue e = epilogue_of(kind, activation);
          const Bytes expected = layer.run(kernels(Isa::kScalar), 1, e, add);
          for (const Kernels* table : tables()) {
            const RunsOn only(*table);
            for (const int threads : {1, 2}) {
              CAPTURE(isa_name(table->isa));
              CAPTURE(static_cast<int>(kind));
              CAPTURE(static_cast<int>(activation));
              CHECK((layer.run(*table, threads, e, add) == expected));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("linear allocates nothing after its first round") {
  const Kernels& table = *tables().front();
  const Runtime rt{&table, 2};
  for (const auto& s :
       {std::array<size_t, 3>{8, 300, 100}, {192, 100, 128}}) {  // rows for all threads, and parts of them
    const Layer layer(s[0], s[1], s[2]);
    std::vector<int32_t> init(layer.shape.padded_n());
    std::vector<float> y(s[0] * s[1]);
    LinearArgs args;
    args.x = layer.x.data();
    args.ldx = s[2];
    args.gemm.b = {layer.shape, layer.weights.data()};
    args.gemm.init = init.data();
    args.gemm.c = y.data();
    args.gemm.ldc = s[1] * sizeof(float);
    args.gemm.epilogue = epilogue_of(OutKind::kFloat32, Activation::kClamp);
    args.gemm.epilogue.multiplier = layer.scale.data();
    make_symmetric_init(table, args.gemm.b, init.data());
    args.gemm.m = layer.m;
    AlignedBuffer scratch(linear_scratch_bytes(rt, args));
    size_t before = 0;
    for (size_t call = 0; call < 1000 + 8; ++call) {
      if (call == 8) before = allocations();
      args.gemm.m = layer.m - call % 8;
      linear(rt, args, scratch.data());
    }
    CHECK(allocations() == before);
  }
}

TEST_CASE("activations: the bits of 2^16 floats of every size, the same on every machine") {
  const size_t n = 65536;
  Layer layer(1, n, 0);
  for (uint32_t i = 0; i < n; ++i) {  // the upper half of the bits, the lower half mixed; no NaN
    const uint32_t bits = i << 16 | (i * 40503u & 0xFFFFu);
    std::memcpy(&layer.bias[i], &bits, 4);
    if (std::isnan(layer.bias[i])) layer.bias[i] = 1.0f;
  }
  const struct {
    Activation activation;
    uint64_t checksum;  // of what NumPy gives
  } known[] = {{Activation::kGelu, 7452860219604959273u},
               {Activation::kGeluTanh, 2734631480907925301u},
               {Activation::kSilu, 11367578078398191971u}};
  for (const auto& [activation, checksum] : known) {
    for (const Kernels* table : tables()) {
      const RunsOn only(*table);
      CAPTURE(isa_name(table->isa));
      uint64_t hash = 1469598103934665603u;  // FNV-1a
      for (const uint8_t byte : layer.run(*table, 1, epilogue_of(OutKind::kFloat32, activation), false)) {
        hash = (hash ^ byte) * 1099511628211u;
      }
      CHECK(hash == checksum);
    }
  }
}

TEST_CASE("a clamp keeps a NaN and bounds the rest") {
  Layer layer(1, 70, 0);
  layer.bias[3] = layer.bias[69] = std::numeric_limits<float>::quiet_NaN();
  constexpr float kFar = std::numeric_limits<float>::infinity();
  for (const auto& [lo, hi] : {std::pair(-kFar, kFar), {0.0f, kFar}, {-kFar, 1.0f}, {-1.0f, 1.0f}}) {
    Epilogue e = epilogue_of(OutKind::kFloat32, Activation::kClamp);
    e.lo = lo;
    e.hi = hi;
    for (const Kernels* table : tables()) {
      const RunsOn only(*table);
      CAPTURE(isa_name(table->isa));
      const Bytes bytes = layer.run(*table, 1, e, false);
      std::vector<float> y(layer.bias.size());
      std::memcpy(y.data(), bytes.data(), bytes.size());
      for (size_t i = 0; i < y.size(); ++i) {
        const float bias = layer.bias[i];
        CHECK((std::isnan(bias) ? std::isnan(y[i]) : y[i] == clamp(bias, lo, hi)));
      }
    }
  }
}

TEST_CASE("quantize_rows: ties, tiny and huge rows, NaN and infinities; both signs; rows apart") {
  constexpr size_t kRows = 7;
  constexpr float kFar = std::numeric_limits<float>::infinity();
  for (const float size : {0.0f, 1.0f, 1e-44f, 0x1p-111f, 0x1p-110f, 1e-27f, 1e29f, 1e30f, 3e38f}) {
    for (const size_t n : Sizes{1, 15, 16, 17, 64, 65, 147, 200, 255, 256, 257, 320, 1024, 1025}) {
      const size_t ldx = n + (n < 256 ? 3 : 16 - n % 16 + 4), ldy = n + 5;  // long rows start on a line, too
      std::vector<float> x((kRows - 1) * ldx + n), peak(kRows);
      for (size_t row = 0; row < kRows; ++row) {
        peak[row] = size / static_cast<float>(row + 1);
        float* const values = x.data() + row * ldx;
        for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(uniform(-254, 254)) / 254.0f * peak[row];
        values[n / 2] = peak[row];  // half of the products are ties
        if (n > 20 && row % 3 == 1) values[3] = std::numeric_limits<float>::quiet_NaN();
        if (n > 200 && row == 5) values[n - 1] = peak[row] = kFar;
        if (n > 14 && row == 2) values[1] = -(peak[row] = kFar);
        if (n > 14 && row == 6) values[n - 2] = peak[row] = kFar, values[0] = -kFar;
      }
      Guarded<float> guarded(x);
      for (const Kernels* table : tables()) {
        const RunsOn only(*table);
        CAPTURE(isa_name(table->isa));
        for (const Sign sign : {Sign::kS8, Sign::kU8}) {
          Guarded<uint8_t> q((kRows - 1) * ldy + n);
          std::fill(q.data(), q.data() + (kRows - 1) * ldy + n, uint8_t{0xA5});
          float scale[kRows] = {};
          table->quantize_rows(guarded.data(), kRows, n, ldx, sign, q.data(), ldy, scale);
          for (size_t row = 0; row < kRows; ++row) {
            const RowScale by(peak[row]);
            CHECK(scale[row] == by.scale);
            const QuantParams map = {1.0f, sign == Sign::kU8 ? 128 : 0, sign};
            for (size_t i = 0; i < n; ++i) {
              CHECK(q.data()[row * ldy + i] == quantized(x[row * ldx + i] * by.factor, map, -128, 127));
            }
            for (size_t i = n; row + 1 < kRows && i < ldy; ++i) CHECK(q.data()[row * ldy + i] == 0xA5);
          }
        }
      }
    }
  }
}

TEST_CASE("quantize_spans: one sign, both, tiny and huge rows, NaN and infinities; both signs of codes; rows apart") {
  constexpr size_t kRows = 7;
  constexpr float kFar = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (const float size : {0.0f, 1.0f, 1e-44f, 0x1p-111f, 0x1p-110f, 1e-27f, 1e30f, 3e38f}) {
    for (const size_t n : Sizes{1, 15, 16, 17, 64, 65, 147, 255, 256, 257, 320, 1025}) {
      const size_t ldx = n + (n < 256 ? 3 : 16 - n % 16 + 4), ldy = n + 5;
      std::vector<float> x((kRows - 1) * ldx + n);
      for (size_t row = 0; row < kRows; ++row) {
        const int low = row == 0 ? 0 : row == 1 ? -20 : -254, high = row == 2 ? 0 : 254;
        float* const values = x.data() + row * ldx;
        for (size_t i = 0; i < n; ++i) values[i] = static_cast<float>(uniform(low, high)) / 254.0f * size;
        if (row == 3) values[n / 2] = kNan;
        if (row == 4) values[n - 1] = -kNan;
        if (row == 5) values[n / 3] = -kFar;
      }
      Guarded<float> guarded(x);
      for (const Kernels* table : tables()) {
        const RunsOn only(*table);
        CAPTURE(isa_name(table->isa));
        for (const Sign sign : {Sign::kS8, Sign::kU8}) {
          Guarded<uint8_t> q((kRows - 1) * ldy + n);
          std::vector<uint8_t> plain(n);
          float scale[kRows] = {}, plain_scale = 0.0f;
          int32_t zero_point[kRows] = {};
          table->quantize_spans(guarded.data(), kRows, n, ldx, sign, q.data(), ldy, scale, zero_point);
          for (size_t row = 0; row < kRows; ++row) {
            const float* const values = x.data() + row * ldx;
            float most = 0.0f, least = 0.0f;
            bool finite = true;
            for (size_t i = 0; i < n; ++i) {
              finite = finite && std::isfinite(values[i]);
              most = std::max(most, values[i]);
              least = std::max(least, -values[i]);
            }
            if (!finite || std::isinf(most + least)) {
              table->quantize_rows(values, 1, n, n, sign, plain.data(), n, &plain_scale);
              CHECK(scale[row] == plain_scale);
              CHECK(zero_point[row] == 0);
              CHECK(std::memcmp(q.data() + row * ldy, plain.data(), n) == 0);
              continue;
            }
            const RowScale by(most + least, 254.0f);
            const int32_t zero = rne(least * by.factor);
            CHECK(scale[row] == by.scale);
            CHECK(zero_point[row] == zero - 128);
            for (size_t i = 0; i < n; ++i) {
              const double step = double{values[i] * by.factor} + zero;  // exact
              const int32_t code = static_cast<int32_t>(std::nearbyint(step)) - 128;
              CHECK(value(q.data()[row * ldy + i], sign) - (sign == Sign::kU8 ? 128 : 0) == code);
            }
          }
        }
      }
    }
  }
}
