// What the core knows of its machine, and that it decides nothing but how work is cut.
#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "gemm/linear.h"
#include "machines.h"
#include "reference.h"

using namespace ek;
using namespace ek::test;

namespace {

constexpr size_t kMiB = size_t{1} << 20;

AlignedBuffer packed(const PackedShape& shape) {
  size_t bytes = 0;
  REQUIRE(shape.bytes(&bytes));
  AlignedBuffer out(bytes);
  const std::vector<int8_t> w = random_weights(shape.n * shape.k_per_tap);
  pack_weights(shape, w.data(), static_cast<ptrdiff_t>(shape.k_per_tap), 0, 1, out.data());
  return out;
}

}  // namespace

TEST_CASE("a machine has caches and threads that cost something, and stays what it is") {
  CHECK(machine().l2_bytes >= kMiB / 16);
  CHECK(machine().last_level_bytes >= machine().l2_bytes);
  CHECK(machine().wake_us > 0);
  CHECK(&machine() == &machine());
  for (const Isa isa : available_isas()) CHECK(macs_per_us(isa) >= macs_per_us(Isa::kScalar));
}

TEST_CASE("a larger L2 than 1 MiB and a larger last level than 32 MiB change nothing, smaller ones do") {
  const struct {
    Machine machine;
    size_t resident, stream;
  } known[] = {{{kMiB, 32 * kMiB, 4.5}, kMiB / 2, 32 * kMiB},
               {{2 * kMiB, 320 * kMiB, 4.5}, kMiB / 2, 32 * kMiB},
               {{kMiB / 4, 8 * kMiB, 4.5}, kMiB / 8, 8 * kMiB}};
  for (const auto& k : known) {
    const OnMachine pretended(k.machine);
    CHECK(resident_bytes() == k.resident);
    CHECK(stream_bytes() == k.stream);
    CHECK(worth_a_thread(4.6));
    CHECK_FALSE(worth_a_thread(4.5));
  }
  const OnMachine generous(kMachines[0]);
  CHECK_FALSE(worth_a_thread(0.0));  // nothing is shared among no one
}

TEST_CASE("a product has the same bits on every machine, by every path") {
  const struct {
    const char* path;
    size_t m, n, k;
    OutKind kind;
  } products[] = {{"tile", 300, 320, 96, OutKind::kInt32},
                  {"tile", 70, 336, 100, OutKind::kFloat32},
                  {"thin", 261, 480, 3, OutKind::kInt32},
                  {"gemv", 1, 1040, 200, OutKind::kFloat32},
                  {"shallow", 101, 208, 16, OutKind::kQuantized}};
  for (const Kernels* table : tables()) {
    for (const auto& p : products) {
      const PackedShape shape{p.n, 1, p.k};
      const AlignedBuffer weights = packed(shape);
      const Bytes a = random_bytes(p.m * p.k);
      const std::vector<int32_t> init(shape.padded_n(), 7);
      const std::vector<float> multiplier(shape.padded_n(), 0.01f);
      GemmArgs args;
      args.m = p.m;
      args.a = a.data();
      args.lda = p.k;
      args.a_sign = table->native_sign;
      args.b = {shape, weights.data()};
      args.init = init.data();
      args.epilogue.kind = p.kind;
      args.epilogue.multiplier = multiplier.data();
      args.epilogue.lo = -90.0f;
      args.epilogue.hi = 100.0f;
      args.ldc = out_bytes(args.epilogue, p.n);
      AlignedBuffer expected(p.m * args.ldc), got(p.m * args.ldc);
      args.c = expected.data();
      const std::string path = gemm_path({table, 1}, args);
      CHECK((path == p.path || (path == "tile" && table->gemm_shallow == nullptr)));
      gemm({table, 1}, args);
      args.c = got.data();
      for (const Machine& other : kMachines) {
        const OnMachine pretended(other);
        for (const int threads : {1, 3}) {
          CAPTURE(isa_name(table->isa));
          CAPTURE(p.path);
          CAPTURE(other.l2_bytes);
          std::memset(got.data(), 0xA5, got.size());
          gemm({table, threads}, args);
          CHECK(std::memcmp(got.data(), expected.data(), got.size()) == 0);
        }
      }
    }
  }
}

TEST_CASE("linear has the same bits on every machine") {
  const size_t m = 150, n = 144, k = 70;
  const PackedShape shape{n, 1, k};
  const AlignedBuffer weights = packed(shape);
  std::vector<float> x(m * k);
  for (auto& v : x) v = uniform(-3.0f, 3.0f);
  const std::vector<float> scale(shape.padded_n(), 0.01f);
  for (const Kernels* table : tables()) {
    std::vector<int32_t> init(shape.padded_n());
    AlignedBuffer expected(m * n * sizeof(float)), got(m * n * sizeof(float));
    LinearArgs args;
    args.x = x.data();
    args.ldx = k;
    args.gemm.m = m;
    args.gemm.b = {shape, weights.data()};
    args.gemm.init = init.data();
    args.gemm.c = expected.data();
    args.gemm.ldc = n * sizeof(float);
    args.gemm.epilogue.kind = OutKind::kFloat32;
    args.gemm.epilogue.multiplier = scale.data();
    args.gemm.epilogue.hi = 50.0f;
    make_symmetric_init(*table, args.gemm.b, init.data());
    const auto run = [&](int threads) {
      AlignedBuffer scratch(linear_scratch_bytes({table, threads}, args));
      linear({table, threads}, args, scratch.data());
    };
    run(1);
    args.gemm.c = got.data();
    for (const Machine& other : kMachines) {
      const OnMachine pretended(other);
      for (const int threads : {1, 3}) {
        CAPTURE(isa_name(table->isa));
        CAPTURE(other.l2_bytes);
        std::memset(got.data(), 0xA5, got.size());
        run(threads);
        CHECK(std::memcmp(got.data(), expected.data(), got.size()) == 0);
      }
    }
  }
}
