// The C ABI: the same numbers as the core, every refusal by its status, nothing thrown, any number of callers.
#include <doctest/doctest.h>

#include <atomic>
#include <cfenv>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "edgekern/edgekern.h"
#include "reference.h"

using namespace ek::test;

extern "C" int capi_from_c(void);

namespace {

const ek_api& api() { return *edgekern_get_api(EDGEKERN_ABI_VERSION); }

using Packed = std::unique_ptr<ek_packed, void (*)(ek_packed*)>;

Packed pack(size_t k, size_t n, const std::vector<int8_t>& b) {
  ek_packed* packed = nullptr;
  REQUIRE(api().pack_b(k, n, b.data(), static_cast<ptrdiff_t>(n), 1, &packed) == EK_OK);
  return {packed, api().free_packed};
}

bool refused(ek_status status, ek_status wanted, const std::string& words) {
  return status == wanted && std::string(api().error_message()).find(words) != std::string::npos;
}

/// 3 x 5 times 5 x 4, small enough to break one argument at a time.
struct Small {
  Bytes a = random_bytes(15);
  std::vector<int8_t> b = random_weights(20);
  Packed packed = pack(5, 4, b);
  std::vector<float> scale = {0.5f, 0.25f, 1.0f, 2.0f};
  std::vector<int32_t> c = std::vector<int32_t>(12);
  ek_gemm gemm{3, a.data(), 5, EK_S8, 0, packed.get(), 0};
  ek_epilogue_f32 f32{nullptr, scale.data(), nullptr, -1e30f, 1e30f};
  ek_epilogue_q8 q8{scale.data(), nullptr, EK_U8, 128, 0, 255};
};

}  // namespace

TEST_CASE("the header is C") { CHECK(capi_from_c() == 0); }

TEST_CASE("a ring cache from C steps, forks, rewinds, saves and refuses") {
  const ek_kv_spec spec{1, 1, 2, 8, 6, 1, 2, 2, 2, "int8"};
  ek_kv* kv = nullptr;
  REQUIRE(api().kv_create(&spec, &kv) == EK_OK);
  size_t bytes = 0;
  CHECK(api().kv_bytes(kv, &bytes) == EK_OK);
  CHECK(bytes > 0);
  std::vector<float> k(8, 1.0f), v(8, 0.5f), q(16, 1.0f), out(16);
  for (int i = 0; i < 20; ++i) {
    REQUIRE(api().kv_stage(kv, 0, 1) == EK_OK);
    REQUIRE(api().kv_write(kv, 0, 0, k.data(), v.data(), 1) == EK_OK);
    REQUIRE(api().kv_attend(kv, 0, 0, 1, q.data(), nullptr, 1.0f, out.data(), 1) == EK_OK);
    REQUIRE(api().kv_commit(kv, 0, 1) == EK_OK);
  }
  for (const float x : out) CHECK(std::fabs(x - 0.5f) < 0.01f);
  int64_t position = 0;
  CHECK(api().kv_position(kv, 0, &position) == EK_OK);
  CHECK(position == 20);
  CHECK(api().kv_fork(kv, 0, 1) == EK_OK);
  CHECK(api().kv_rewind(kv, 1, 2) == EK_OK);
  CHECK(refused(api().kv_rewind(kv, 1, 9), EK_ERROR_REWIND, "kv_rewind: "));
  CHECK(api().kv_save(kv, 0, "m", 1, nullptr, 0, &bytes) == EK_OK);
  std::vector<uint8_t> state(bytes);
  CHECK(api().kv_save(kv, 0, "m", 1, state.data(), state.size(), &bytes) == EK_OK);
  CHECK(api().kv_load(kv, 1, "m", 1, state.data(), state.size()) == EK_OK);
  CHECK(refused(api().kv_load(kv, 1, "n", 1, state.data(), state.size()), EK_ERROR_CORRUPT, "another model"));
  CHECK(api().kv_reset(kv, 1, 5) == EK_OK);
  CHECK(api().kv_stage(kv, 1, 2) == EK_OK);
  CHECK(api().kv_abort(kv, 1) == EK_OK);
  CHECK(api().kv_position(kv, 1, &position) == EK_OK);
  CHECK(position == 5);
  CHECK(refused(api().kv_stage(nullptr, 0, 1), EK_ERROR_NULL, "kv_stage: kv is null"));
  CHECK(refused(api().kv_stage(kv, 2, 1), EK_ERROR_VALUE, "sequence must be below"));
  CHECK(refused(api().kv_write(kv, 0, 0, nullptr, v.data(), 1), EK_ERROR_NULL, "k or v is null"));
  CHECK(refused(api().kv_attend(kv, 0, 0, 1, q.data(), nullptr, 1.0f, nullptr, 1), EK_ERROR_NULL, "q or out is null"));
  CHECK(refused(api().kv_attend(kv, 0, 0, 1, q.data(), nullptr, 1.0f, out.data(), -1), EK_ERROR_VALUE, "num_threads"));
  const auto attend = [&](const float* queries, const float* sink_queries, float* to) {
    return api().kv_attend(kv, 0, 0, 1, queries, sink_queries, 1.0f, to, 1);
  };
  const auto odd = [](std::vector<float>& x) {
    return reinterpret_cast<float*>(reinterpret_cast<char*>(x.data()) + 1);
  };
  CHECK(refused(attend(q.data(), nullptr, q.data()), EK_ERROR_OUT, "out overlaps q"));
  CHECK(refused(attend(q.data(), out.data() + 1, out.data()), EK_ERROR_OUT, "out overlaps q_sink"));
  CHECK(refused(attend(q.data(), nullptr, odd(out)), EK_ERROR_OUT, "out must start at a multiple of 4"));
  CHECK(refused(attend(odd(q), nullptr, out.data()), EK_ERROR_VALUE, "q and q_sink must start at a multiple of 4"));
  CHECK(
      refused(api().kv_write(kv, 0, 0, odd(k), v.data(), 1), EK_ERROR_VALUE, "k and v must start at a multiple of 4"));
  CHECK(refused(api().kv_abort(kv, 2), EK_ERROR_VALUE, "no such sequence"));
  ek_kv_spec wrong = spec;
  wrong.formats = "int5";
  ek_kv* none = nullptr;
  CHECK(refused(api().kv_create(&wrong, &none), EK_ERROR_VALUE, "formats names no pair"));
  api().kv_free(kv);
}

TEST_CASE("a table of another ABI version is not handed out") {
  CHECK(edgekern_get_api(EDGEKERN_ABI_VERSION + 1) == nullptr);
  CHECK(std::string(api().error_message()).find("ABI version 2 was asked for") != std::string::npos);
  CHECK(api().abi_version == EDGEKERN_ABI_VERSION);
  CHECK(api().struct_size == sizeof(ek_api));
  const char* isa = nullptr;
  CHECK(api().isa(&isa) == EK_OK);
  CHECK(std::string(isa) == ek::isa_name(tables().front()->isa));
}

TEST_CASE("products for C equal the slow way") {
  for (const size_t m : {size_t{1}, size_t{7}, size_t{65}}) {
    for (const size_t n : {size_t{1}, size_t{16}, size_t{75}}) {
      for (const ek_type type : {EK_U8, EK_S8}) {
        const size_t k = 37, lda = k + 3;
        const ek::Sign sign = type == EK_U8 ? ek::Sign::kU8 : ek::Sign::kS8;
        const Bytes a = random_bytes(m * lda);
        const std::vector<int8_t> b = random_weights(k * n);
        const Packed packed = pack(k, n, b);
        std::vector<float> multiplier(n), bias(n), row_scale(m);
        std::vector<int32_t> bias_int(n);
        for (size_t i = 0; i < n; ++i) {
          multiplier[i] = uniform(1e-5f, 3e-3f);
          bias[i] = uniform(-5.0f, 5.0f);
          bias_int[i] = uniform(-10000, 10000);
        }
        for (float& s : row_scale) s = uniform(0.1f, 2.0f);
        const int32_t za = type == EK_U8 ? 131 : -7;
        const ek_gemm gemm{m, a.data(), lda, type, za, packed.get(), 2};
        std::vector<int32_t> c(m * n);
        std::vector<float> f(m * n);
        Bytes q(m * n);
        const ek_epilogue_f32 f32{row_scale.data(), multiplier.data(), bias.data(), -3.0f, 3.5f};
        const ek_epilogue_q8 q8{multiplier.data(), bias_int.data(), EK_S8, -11, -100, 90};
        REQUIRE(api().gemm_s32(&gemm, c.data(), n * sizeof(int32_t)) == EK_OK);
        REQUIRE(api().gemm_f32(&gemm, &f32, f.data(), n * sizeof(float)) == EK_OK);
        REQUIRE(api().gemm_q8(&gemm, &q8, q.data(), n) == EK_OK);
        size_t wrong = 0;
        for (size_t i = 0; i < m; ++i) {
          for (size_t j = 0; j < n; ++j) {
            int32_t acc = 0;
            for (size_t d = 0; d < k; ++d) acc += (value(a[i * lda + d], sign) - za) * b[d * n + j];
            float y = static_cast<float>(acc) * (row_scale[i] * multiplier[j]);
            y = clamp(y + bias[j], -3.0f, 3.5f);
            const int32_t r = rne(static_cast<float>(acc + bias_int[j]) * multiplier[j]) - 11;
            const auto byte = static_cast<uint8_t>(std::min(std::max(r, -100), 90));
            wrong += (c[i * n + j] != acc) + (f[i * n + j] != y) + (q[i * n + j] != byte);
          }
        }
        CAPTURE(m);
        CAPTURE(n);
        CHECK(wrong == 0);
      }
    }
  }
}

TEST_CASE("weights of any strides are packed alike") {
  const std::vector<int8_t> b = random_weights(6 * 9);
  std::vector<int8_t> transposed(b.size()), reversed(b.rbegin(), b.rend());
  for (size_t k = 0; k < 6; ++k) {
    for (size_t n = 0; n < 9; ++n) transposed[n * 6 + k] = b[k * 9 + n];
  }
  const auto saved = [](ek_packed* packed) {
    size_t bytes = 0;
    REQUIRE(api().packed_bytes(packed, &bytes) == EK_OK);
    Bytes out(bytes);
    REQUIRE(api().save_packed(packed, out.data(), bytes) == EK_OK);
    api().free_packed(packed);
    return out;
  };
  ek_packed *plain = nullptr, *columns = nullptr, *backwards = nullptr;
  REQUIRE(api().pack_b(6, 9, b.data(), 9, 1, &plain) == EK_OK);
  REQUIRE(api().pack_b(6, 9, transposed.data(), 1, 6, &columns) == EK_OK);
  REQUIRE(api().pack_b(6, 9, reversed.data() + 53, -9, -1, &backwards) == EK_OK);
  const Bytes expected = saved(plain);
  CHECK(saved(columns) == expected);
  CHECK(saved(backwards) == expected);
}

TEST_CASE("saved weights come back, and nothing else is taken for them") {
  Small s;
  size_t bytes = 0, k = 0, n = 0;
  REQUIRE(api().packed_bytes(s.packed.get(), &bytes) == EK_OK);
  Bytes saved(bytes + 1);
  REQUIRE(api().save_packed(s.packed.get(), saved.data(), bytes) == EK_OK);
  ek_packed* loaded = nullptr;
  REQUIRE(api().load_packed(saved.data(), bytes, &loaded) == EK_OK);
  REQUIRE(api().packed_shape(loaded, &k, &n) == EK_OK);
  CHECK(k == 5);
  CHECK(n == 4);
  std::vector<int32_t> again(12);
  REQUIRE(api().gemm_s32(&s.gemm, s.c.data(), 16) == EK_OK);
  s.gemm.b = loaded;
  REQUIRE(api().gemm_s32(&s.gemm, again.data(), 16) == EK_OK);
  CHECK(again == s.c);
  api().free_packed(loaded);

  loaded = nullptr;
  CHECK(refused(api().save_packed(s.packed.get(), saved.data(), bytes - 1), EK_ERROR_VALUE, "packed_bytes says"));
  CHECK(refused(api().load_packed(saved.data(), 63, &loaded), EK_ERROR_CORRUPT, "fewer than a header"));
  CHECK(refused(api().load_packed(saved.data(), bytes - 1, &loaded), EK_ERROR_CORRUPT, "cut short"));
  CHECK(refused(api().load_packed(saved.data(), bytes + 1, &loaded), EK_ERROR_CORRUPT, "cut short"));
  for (size_t at = 0; at < bytes; ++at) {
    Bytes damaged = saved;
    damaged[at] ^= 1;
    const ek_status status = api().load_packed(damaged.data(), bytes, &loaded);
    CHECK(status == (at >= 8 && at < 12 ? EK_ERROR_LAYOUT : EK_ERROR_CORRUPT));
  }
  Bytes other = saved;
  other[8] = 77;
  CHECK(refused(api().load_packed(other.data(), bytes, &loaded), EK_ERROR_LAYOUT, "layout version 77"));
  other = saved;
  const uint64_t huge = std::numeric_limits<uint64_t>::max() / 2;
  std::memcpy(other.data() + 16, &huge, sizeof huge);
  CHECK(refused(api().load_packed(other.data(), bytes, &loaded), EK_ERROR_CORRUPT, "cut short or damaged"));
  CHECK(loaded == nullptr);
}

TEST_CASE("a wrong operand is refused by name and nothing is written") {
  Small s;
  const auto gemm_s32 = [&](const ek_gemm& g, void* c, size_t ldc) {
    return api().gemm_s32(&g, static_cast<int32_t*>(c), ldc);
  };
  const auto with = [&](auto change) {
    ek_gemm g = s.gemm;
    change(g);
    return gemm_s32(g, s.c.data(), 16);
  };
  CHECK(refused(api().gemm_s32(nullptr, s.c.data(), 16), EK_ERROR_NULL, "gemm_s32: gemm"));
  CHECK(refused(with([](ek_gemm& g) { g.b = nullptr; }), EK_ERROR_NULL, "gemm->b is null"));
  CHECK(refused(with([](ek_gemm& g) { g.a = nullptr; }), EK_ERROR_NULL, "a is null"));
  CHECK(refused(with([](ek_gemm& g) { g.lda = 4; }), EK_ERROR_VALUE, "lda is 4 but a row has 5 bytes"));
  CHECK(refused(with([](ek_gemm& g) { g.a_type = 2; }), EK_ERROR_VALUE, "a_type must be EK_U8 or EK_S8, got 2"));
  CHECK(refused(with([](ek_gemm& g) { g.a_zero_point = 128; }), EK_ERROR_VALUE, "a_zero_point 128"));
  CHECK(refused(with([](ek_gemm& g) { g.num_threads = -1; }), EK_ERROR_VALUE, "num_threads"));
  const size_t huge = std::numeric_limits<size_t>::max() / 2;
  CHECK(refused(with([&](ek_gemm& g) { g.lda = huge; }), EK_ERROR_VALUE, "end of the address space"));
  CHECK(refused(gemm_s32(s.gemm, nullptr, 16), EK_ERROR_NULL, "c is null"));
  CHECK(refused(gemm_s32(s.gemm, s.c.data(), 12), EK_ERROR_VALUE, "ldc is 12 but a row has 4 elements of 4 bytes"));
  CHECK(refused(gemm_s32(s.gemm, s.c.data(), huge - 3), EK_ERROR_VALUE, "end of the address space"));
  CHECK(refused(gemm_s32(s.gemm, s.c.data(), 18), EK_ERROR_OUT, "multiples of 4 bytes"));
  CHECK(refused(gemm_s32(s.gemm, reinterpret_cast<char*>(s.c.data()) + 1, 16), EK_ERROR_OUT, "multiples of 4 bytes"));
  CHECK(refused(with([&](ek_gemm& g) { g.a = s.c.data(); }), EK_ERROR_OUT, "c overlaps a"));

  auto* const floats = reinterpret_cast<float*>(s.c.data());
  const auto with_f32 = [&](auto change) {
    ek_epilogue_f32 e = s.f32;
    change(e);
    return api().gemm_f32(&s.gemm, &e, floats, 16);
  };
  CHECK(refused(api().gemm_f32(&s.gemm, nullptr, floats, 16), EK_ERROR_NULL, "epilogue"));
  CHECK(refused(with_f32([](auto& e) { e.column_scale = nullptr; }), EK_ERROR_NULL, "column_scale is null"));
  CHECK(refused(with_f32([](auto& e) { e.lo = 2e30f; }), EK_ERROR_VALUE, "lo must be at most hi"));
  CHECK(refused(with_f32([&](auto& e) { e.bias = floats + 8; }), EK_ERROR_OUT, "c overlaps bias"));
  CHECK(refused(with_f32([&](auto& e) { e.row_scale = floats; }), EK_ERROR_OUT, "c overlaps row_scale"));

  const auto with_q8 = [&](auto change) {
    ek_epilogue_q8 e = s.q8;
    change(e);
    return api().gemm_q8(&s.gemm, &e, s.c.data(), 4);
  };
  std::vector<int32_t> bias = {0, 0, 1 << 30, 0};
  CHECK(refused(with_q8([](auto& e) { e.multiplier = nullptr; }), EK_ERROR_NULL, "multiplier is null"));
  CHECK(refused(with_q8([](auto& e) { e.type = -1; }), EK_ERROR_VALUE, "type must be"));
  CHECK(refused(with_q8([](auto& e) { e.hi = 256; }), EK_ERROR_VALUE, "hi 256 must lie in the range"));
  CHECK(refused(with_q8([](auto& e) { e.lo = 200, e.hi = 100; }), EK_ERROR_VALUE, "lo <= hi"));
  CHECK(refused(with_q8([&](auto& e) { e.bias = bias.data(); }), EK_ERROR_VALUE, "bias[2] is 1073741824"));
  CHECK(s.c == std::vector<int32_t>(12));

  const Packed deep = pack(32897, 1, std::vector<int8_t>(32897));
  const Bytes row(32897);
  const ek_gemm g{1, row.data(), row.size(), EK_U8, 0, deep.get(), 1};
  CHECK(refused(api().gemm_f32(&g, &s.f32, floats, 4), EK_ERROR_DEPTH, "K is 32897; more than 32896"));
  CHECK(refused(api().gemm_q8(&g, &s.q8, s.c.data(), 1), EK_ERROR_DEPTH, "split K"));
  CHECK(api().gemm_s32(&g, s.c.data(), 4) == EK_OK);

  ek_packed* packed = nullptr;
  CHECK(refused(api().pack_b(5, 4, nullptr, 4, 1, &packed), EK_ERROR_NULL, "pack_b: b is null"));
  CHECK(refused(api().pack_b(5, 4, s.b.data(), 4, 1, nullptr), EK_ERROR_NULL, "packed is null"));
  CHECK(refused(api().pack_b(huge, huge, s.b.data(), 0, 0, &packed), EK_ERROR_VALUE, "too large to pack"));
  // 2^54 bytes: a size that can be named, and more than there are addresses. What is thrown stops at the border.
  CHECK(refused(api().pack_b(size_t{1} << 50, 1, s.b.data(), 0, 0, &packed), EK_ERROR_MEMORY, "pack_b"));
  CHECK(refused(api().packed_shape(nullptr, nullptr, nullptr), EK_ERROR_NULL, "packed_shape"));
  CHECK(refused(api().packed_bytes(nullptr, nullptr), EK_ERROR_NULL, "packed_bytes"));
  CHECK(refused(api().save_packed(nullptr, nullptr, 0), EK_ERROR_NULL, "save_packed"));
  CHECK(refused(api().load_packed(nullptr, 0, &packed), EK_ERROR_NULL, "load_packed"));
  CHECK(refused(api().isa(nullptr), EK_ERROR_NULL, "name is null"));
  CHECK(packed == nullptr);
  api().free_packed(nullptr);
}

TEST_CASE("quantize and dequantize for C, and what they refuse") {
  const std::vector<float> x = {-100.0f, -1.0f, -0.25f, 0.0f, 0.25f, 0.75f, 100.0f};
  std::vector<int8_t> q(7);
  std::vector<float> y(7);
  REQUIRE(api().quantize(x.data(), 7, 0.5f, 3, EK_S8, q.data()) == EK_OK);
  CHECK(q == std::vector<int8_t>{-128, 1, 3, 3, 3, 5, 127});
  REQUIRE(api().dequantize(q.data(), 7, 0.5f, 3, EK_S8, y.data()) == EK_OK);
  CHECK(y == std::vector<float>{-65.5f, -1.0f, 0.0f, 0.0f, 0.0f, 1.0f, 62.0f});
  CHECK(refused(api().quantize(nullptr, 7, 0.5f, 3, EK_S8, q.data()), EK_ERROR_NULL, "quantize: x or y is null"));
  CHECK(refused(api().quantize(x.data(), 7, 0.0f, 3, EK_S8, q.data()), EK_ERROR_VALUE, "scale must be positive"));
  CHECK(refused(api().quantize(x.data(), 7, 0.5f, 128, EK_S8, q.data()), EK_ERROR_VALUE, "zero_point 128"));
  CHECK(refused(api().quantize(x.data(), 7, 0.5f, 0, 9, q.data()), EK_ERROR_VALUE, "type must be"));
  CHECK(refused(api().quantize(y.data(), 7, 0.5f, 0, EK_S8, y.data()), EK_ERROR_OUT, "y overlaps x"));
  auto* const odd = reinterpret_cast<float*>(reinterpret_cast<char*>(y.data()) + 1);
  CHECK(refused(api().dequantize(q.data(), 6, 0.5f, 0, EK_S8, odd), EK_ERROR_OUT, "y must start at a multiple of 4"));
  CHECK(refused(api().quantize(odd, 6, 0.5f, 0, EK_S8, q.data()), EK_ERROR_VALUE, "x must start at a multiple of 4"));
  CHECK(api().quantize(nullptr, 0, 0.5f, 0, EK_S8, nullptr) == EK_OK);
}

TEST_CASE("empty products are no special case") {
  const Packed packed = pack(0, 3, {});
  std::vector<int32_t> c(6, 5);
  const ek_gemm gemm{2, nullptr, 0, EK_U8, 9, packed.get(), 0};
  CHECK(api().gemm_s32(&gemm, c.data(), 12) == EK_OK);
  CHECK(c == std::vector<int32_t>(6, 0));
  const Packed none = pack(4, 0, {});
  const ek_gemm no_columns{2, "abcdefgh", 4, EK_U8, 9, none.get(), 0};
  CHECK(api().gemm_s32(&no_columns, nullptr, 0) == EK_OK);
}

namespace {

/// A host's loop: two threads that round upwards, as somebody else's may. Counts what it runs.
struct Host {
  std::atomic<int> calls{0}, tasks{0};

  static void run(void* self, size_t count, int32_t threads, ek_task task, void* context) {
    Host& host = *static_cast<Host*>(self);
    ++host.calls;
    const auto share = [&](size_t first) {
      const int before = std::fegetround();
      std::fesetround(FE_UPWARD);
      for (size_t i = first; i < count; i += 2) task(context, i), ++host.tasks;
      std::fesetround(before);
    };
    if (threads < 2) return share(0), share(1);
    std::thread other(share, 1);
    share(0);
    other.join();
  }
};

}  // namespace

TEST_CASE("a host lends its threads and gets the same bits") {
  const size_t m = 160, k = 130, n = 192;
  const Bytes a = random_bytes(m * k);
  const Packed packed = pack(k, n, random_weights(k * n));
  const std::vector<float> scale(n, 1e-3f);
  const ek_gemm gemm{m, a.data(), k, EK_S8, 3, packed.get(), 2};
  const ek_epilogue_f32 epilogue{nullptr, scale.data(), scale.data(), -1e3f, 1e3f};
  std::vector<float> own(m * n), lent(m * n);
  REQUIRE(api().gemm_f32(&gemm, &epilogue, own.data(), n * 4) == EK_OK);
  Host host;
  api().set_parallel_for(&Host::run, &host);
  const ek_status status = api().gemm_f32(&gemm, &epilogue, lent.data(), n * 4);
  api().set_parallel_for(nullptr, nullptr);
  REQUIRE(status == EK_OK);
  CHECK(host.calls.load() > 0);
  CHECK(host.tasks.load() >= 2);
  CHECK(lent == own);
  const int calls = host.calls.load();
  REQUIRE(api().gemm_f32(&gemm, &epilogue, lent.data(), n * 4) == EK_OK);
  CHECK(host.calls.load() == calls);
}

TEST_CASE("every thread has its own failure and its own buffers") {
  const size_t k = 200, n = 96;
  const std::vector<int8_t> b = random_weights(k * n);
  const Packed packed = pack(k, n, b);
  const Bytes a = random_bytes(64 * k);
  std::vector<int32_t> expected(64 * n);
  const ek_gemm whole{64, a.data(), k, EK_S8, 3, packed.get(), 1};
  REQUIRE(api().gemm_s32(&whole, expected.data(), n * 4) == EK_OK);
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      std::vector<int32_t> c(64 * n);
      for (size_t m = t + 1; m <= 64; m += 4) {
        ek_gemm part = whole;
        part.m = m;
        part.num_threads = 2;
        wrong += api().gemm_s32(&part, c.data(), n * 4) != EK_OK;
        wrong += std::memcmp(c.data(), expected.data(), m * n * 4) != 0;
        part.a_zero_point = 1000 + static_cast<int32_t>(t);
        const std::string own = "a_zero_point " + std::to_string(1000 + t);
        wrong += !refused(api().gemm_s32(&part, c.data(), n * 4), EK_ERROR_VALUE, own);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong.load() == 0);
}
