// A whole program against the slow way, step by step; and a session that allocates nothing once it stands.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <set>
#include <string>

#include "allocations.h"
#include "base/fp_env.h"
#include "every_kind.h"
#include "machines.h"
#include "moving_weights.h"
#include "program/session.h"
#include "what_ran.h"

using namespace ek;
using namespace ek::test;

// Counts allocations of this process where no sanitizer has its own allocator: those of the core come through here too.
#if defined(__GLIBC__) && !defined(EK_SANITIZED)
#define EK_TEST_COUNTS_ALLOCATIONS 1
extern "C" {
void* __libc_malloc(size_t);
void* __libc_memalign(size_t, size_t);
}
static std::atomic<size_t> g_allocations{0};
extern "C" __attribute__((visibility("default"))) void* malloc(size_t n) {
  ++g_allocations;
  return __libc_malloc(n);
}
extern "C" __attribute__((visibility("default"))) void* aligned_alloc(size_t alignment, size_t n) {
  ++g_allocations;
  return __libc_memalign(alignment, n);
}
size_t ek::test::allocations() { return g_allocations; }
#else
size_t ek::test::allocations() { return 0; }
#endif

namespace {

std::unique_ptr<Session> make_session(const SmallProgram& p, const AlignedBuffer& data, Isa isa, int threads,
                                      const std::vector<Choice>& choices = {}) {
  std::unique_ptr<Session> session;
  const Status status = Session::create(p.index, data.data(), data.size(), isa, threads, &session, {}, choices);
  REQUIRE_MESSAGE(status.ok(), status.message());
  for (const uint32_t id : p.index.inputs)
    std::memcpy(session->tensor(id), p.expected[id].data(), p.expected[id].size());
  return session;
}

size_t wrong_bytes(const SmallProgram& p, Session& session, uint32_t id) {
  REQUIRE(session.tensor_bytes(id) == p.expected[id].size());
  size_t wrong = 0;
  for (size_t i = 0; i < p.expected[id].size(); ++i) wrong += session.tensor(id)[i] != p.expected[id][i];
  return wrong;
}

}  // namespace

TEST_CASE("every step of a program equals the slow way on every ISA and machine, for any number of threads") {
  const SmallProgram p = every_kind();
  const AlignedBuffer data = p.data();
  for (const Isa isa : available_isas()) {
    const RunsOn only(kernels(isa));
    for (const int threads : {1, 2, 5}) {
      const OnMachine pretended(threads == 5 ? kMachines[0] : threads == 1 ? kMachines[2] : machine());
      const auto session = make_session(p, data, isa, threads);
      CAPTURE(isa_name(isa));
      CAPTURE(threads);
      for (size_t i = 0; i < p.index.steps.size(); ++i) {
        CAPTURE(p.index.steps[i].name);
        CAPTURE(p.index.steps[i].op);
        CHECK(session->run_step(i).ok());
        CHECK(wrong_bytes(p, *session, p.index.steps[i].out[0]) == 0);
      }
    }
  }
}

TEST_CASE("a run of all segments gives the outputs, run after run") {
  SmallProgram p = every_kind();
  const auto steps = static_cast<uint32_t>(p.index.steps.size());
  p.index.segments = {{0, 3}, {3, 3}, {3, steps}};
  const AlignedBuffer data = p.data();
  const auto session = make_session(p, data, available_isas().front(), 2);
  for (int run = 0; run < 3; ++run) {
    for (const uint32_t id : p.index.inputs) {
      std::memcpy(session->tensor(id), p.expected[id].data(), p.expected[id].size());
    }
    for (size_t i = 0; i < p.index.segments.size(); ++i) CHECK(session->run_segment(i).ok());
    for (const uint32_t id : p.index.outputs) CHECK(wrong_bytes(p, *session, id) == 0);
  }
  CHECK(session->arena_bytes() >= p.index.arena_bytes);
}

TEST_CASE("a run on the caller's arrays gives the outputs that are wanted, wherever those arrays lie") {
  SmallProgram p = every_kind();
  const auto steps = static_cast<uint32_t>(p.index.steps.size());
  p.index.segments = {{0, 3}, {3, steps}};
  const AlignedBuffer data = p.data();
  for (const Isa isa : available_isas()) {
    const auto session = make_session(p, data, isa, 2);
    for (const size_t shift : {size_t{0}, size_t{4}, size_t{1}}) {
      std::vector<Bytes> in, out;
      std::vector<const void*> from;
      std::vector<void*> to;
      for (const uint32_t id : p.index.inputs) {
        in.emplace_back(shift + p.expected[id].size());
        std::copy(p.expected[id].begin(), p.expected[id].end(), in.back().data() + shift);
      }
      for (const uint32_t id : p.index.outputs) out.emplace_back(shift + p.expected[id].size());
      for (const Bytes& bytes : in) from.push_back(bytes.data() + shift);
      for (Bytes& bytes : out) to.push_back(bytes.data() + shift);
      to.back() = nullptr;
      CHECK(session->run(from.data(), to.data()).ok());
      for (size_t i = 0; i < out.size(); ++i) {
        const Bytes& want = p.expected[p.index.outputs[i]];
        CAPTURE(i);
        CHECK(std::equal(want.begin(), want.end(), out[i].data() + shift) == (to[i] != nullptr));
      }
      for (const uint32_t id : p.index.inputs) {  // a run of before says nothing about the arena's
        std::memcpy(session->tensor(id), p.expected[id].data(), p.expected[id].size());
      }
      for (size_t i = 0; i < p.index.segments.size(); ++i) CHECK(session->run_segment(i).ok());
      for (const uint32_t id : p.index.outputs) CHECK(wrong_bytes(p, *session, id) == 0);
    }
  }
}

TEST_CASE("no step keeps the address of its weights from one run to the next") {
  const SmallProgram p = every_kind();
  const AlignedBuffer data = p.data();
  size_t blobs = 0, widened = 0;  // that steps name; and of those the ones that are read once, when they are widened
  for (const Step& step : p.index.steps) {
    blobs += step.blobs.size();
    for (const uint32_t id : step.blobs) widened += p.index.blobs[id].stored != Storage::kWhole;
  }
  for (const Isa isa : available_isas()) {
    CAPTURE(isa_name(isa));
    MovingWeights::Counts counts;
    std::unique_ptr<Session> session;
    const Status made = Session::create(p.index, std::make_unique<MovingWeights>(data, &counts), isa, 2, &session);
    REQUIRE_MESSAGE(made.ok(), made.message());
    CHECK(counts.pins == blobs);
    CHECK(counts.pinned_now == 0);
    const auto fill_inputs = [&] {
      for (const uint32_t id : p.index.inputs) {
        std::memcpy(session->tensor(id), p.expected[id].data(), p.expected[id].size());
      }
    };
    for (int run = 0; run < 2; ++run) {
      fill_inputs();
      for (size_t i = 0; i < p.index.steps.size(); ++i) {
        CAPTURE(p.index.steps[i].op);
        CHECK(session->run_step(i).ok());
        CHECK(wrong_bytes(p, *session, p.index.steps[i].out[0]) == 0);
        CHECK(counts.pinned_now == 0);
      }
    }
    fill_inputs();
    CHECK(session->run_segment(0).ok());
    for (const uint32_t id : p.index.outputs) CHECK(wrong_bytes(p, *session, id) == 0);
    CHECK(counts.pins == 4 * blobs - 3 * widened);
  }
}

TEST_CASE("what a program converts at its border is not copied") {
  for (const bool transposed : {false, true}) {
    SmallProgram p;
    uint32_t x = 0, y = 0;
    if (transposed) {
      x = p.tensor(DType::kU8, {1, 5, 3, 4});
      for (uint8_t& byte : p.expected[x]) byte = static_cast<uint8_t>(uniform(0, 255));
      p.index.inputs = {x};
      y = p.transpose(x);
    } else {
      x = p.input({1, 5, 3, 4});
      y = p.quantize_nchw(x, 0.02f, 100, DType::kU8);
    }
    p.finish({y});
    const AlignedBuffer data = p.data();
    const auto session = make_session(p, data, available_isas().back(), 1);
    std::memset(session->tensor(x), 0xEE, p.expected[x].size());
    std::memset(session->tensor(y), 0xEE, p.expected[y].size());
    Bytes out(p.expected[y].size());
    const void* const from = p.expected[x].data();
    void* const to = out.data();
    CHECK(session->run(&from, &to).ok());
    CHECK(session->bytes_copied() == 0);
    CHECK(out == p.expected[y]);
    for (size_t i = 0; i < p.expected[x].size(); ++i) CHECK(session->tensor(x)[i] == 0xEE);
    for (size_t i = 0; i < out.size(); ++i) CHECK(session->tensor(y)[i] == 0xEE);
    std::memcpy(session->tensor(x), from, p.expected[x].size());
    const void* const placed = session->tensor(x);  // is where it belongs; its result is brought out of the arena
    void* const there = session->tensor(y);
    CHECK(session->run(&placed, &there).ok());
    CHECK(session->bytes_copied() == 0);
    Bytes odd(1 + p.expected[x].size());
    std::memcpy(odd.data() + 1, from, p.expected[x].size());
    const void* const unaligned = odd.data() + 1;
    CHECK(session->run(&unaligned, &to).ok());
    CHECK(session->bytes_copied() == (transposed ? 0 : p.expected[x].size()));  // bytes are aligned anywhere
    CHECK(out == p.expected[y]);
  }
}

TEST_CASE("inputs and outputs may lie where others do, and in the arena") {
  SmallProgram p;
  const uint32_t x = p.input({1, 5, 3, 4});
  const uint32_t first = p.quantize(x), second = p.quantize_nchw(x, 0.02f, 100, DType::kU8);
  const uint32_t real = p.dequantize(second, true);
  p.finish({first, real});
  const AlignedBuffer data = p.data();
  const auto session = make_session(p, data, available_isas().back(), 1);
  const auto run = [&](uint8_t* from, void* first_to, void* real_to) {
    std::memcpy(from, p.expected[x].data(), p.expected[x].size());
    const void* const in = from;
    void* const to[] = {first_to, real_to};
    CHECK(session->run(&in, to).ok());
  };
  const auto is = [&](uint32_t id, const uint8_t* bytes) {
    return std::equal(p.expected[id].begin(), p.expected[id].end(), bytes);
  };
  Bytes a(p.expected[x].size()), b(p.expected[real].size());
  run(a.data(), a.data(), b.data());
  CHECK((is(first, a.data()) && is(real, b.data())));
  run(a.data(), b.data(), b.data());  // the later output stays
  CHECK(is(real, b.data()));
  for (const uint32_t id : {x, first, second, real}) {  // where steps write to
    if (session->tensor(id) + a.size() > session->tensor(0) + p.index.arena_bytes) continue;
    run(session->tensor(id), a.data(), b.data());
    CAPTURE(id);
    CHECK((is(first, a.data()) && is(real, b.data())));
  }
}

TEST_CASE("every step runs kernels of the ISA that it was given, and of the path that it states") {
  const SmallProgram p = every_kind();
  const AlignedBuffer data = p.data();
  for (const Isa isa : available_isas()) {
    for (const int threads : {1, 2}) {
      const auto session = make_session(p, data, isa, threads);
      for (size_t i = 0; i < p.index.steps.size(); ++i) {
        CAPTURE(isa_name(isa));
        CAPTURE(p.index.steps[i].op);
        CHECK(wrong_of_step(*session, i, kernels(isa)) == "");
      }
    }
  }
}

TEST_CASE("a step that writes nothing takes no time, however large its other sizes are") {
  SmallProgram p;
  constexpr int64_t kMost = INT32_MAX;
  const uint32_t x = p.tensor(DType::kU8, {0});
  p.index.inputs = {x};
  std::vector<uint32_t> outputs;
  const auto step = [&](StepKind kind, const Arguments& arguments) {
    outputs.push_back(p.tensor(DType::kU8, {0}));
    p.step(kind, {x}, outputs.back(), arguments);
  };
  const std::vector<int64_t> shape = {kMost, kMost, 0, 0}, none(4, 0), ones(4, 1);
  step(StepKind::kSlice, {{"x_shape", shape}, {"y_shape", shape}, {"start", none}, {"stride", ones}});
  step(StepKind::kPad, {{"x_shape", shape}, {"y_shape", shape}, {"before", none}, {"value", 7}});
  step(StepKind::kTranspose, {{"x_shape", shape}, {"perm", {1, 0, 2, 3}}, {"item_bytes", 1}});
  step(StepKind::kConcat, {{"rows", kMost}, {"bytes", std::vector<int64_t>{0}}});
  p.finish(outputs);
  const AlignedBuffer data = p.data();
  std::unique_ptr<Session> session;
  REQUIRE(Session::create(p.index, data.data(), data.size(), available_isas().front(), 1, &session).ok());
  CHECK(session->run_segment(0).ok());  // or never comes back
  CHECK(session->arena_bytes() == 0);
  const Kernels& table = kernels(available_isas().front());
  for (size_t i = 0; i < p.index.steps.size(); ++i) {
    CHECK(std::string(session->path(i)) == "none");
    CHECK(wrong_of_step(*session, i, table) == "");
  }
}

TEST_CASE("a step gives the same bytes in every way that it can run") {
  SmallProgram products;
  const auto add = [&](int64_t k, int64_t rows, int64_t columns, DType dtype) {
    const uint32_t x = products.quantize(products.input({rows, k}));
    return products.gemm(x, rows, {columns, 1, 1, 0, 1, false, -1, dtype});
  };
  products.finish({add(300, 1, 600, DType::kU8), add(300, 1, 256, DType::kF32), add(4, 5, 20, DType::kI32),
                   add(20, 37, 40, DType::kU8), add(300, 7, 600, DType::kS8)});
  std::set<std::string> taken;
  for (const SmallProgram& p : {products, every_kind()}) {
    const AlignedBuffer data = p.data();
    for (const Isa isa : available_isas()) {
      const RunsOn only(kernels(isa));
      for (const int threads : {1, 3}) {
        const auto by_rule = make_session(p, data, isa, threads);
        size_t most = 1;
        for (size_t i = 0; i < p.index.steps.size(); ++i) most = std::max(most, by_rule->choices(i).size());
        for (size_t way = 0; way < 2 * most; ++way) {
          std::vector<Choice> choices(p.index.steps.size());
          for (size_t i = 0; i < choices.size(); ++i) {
            const std::vector<const char*>& able = by_rule->choices(i);
            if (way / 2 < able.size()) choices[i].path = able[way / 2];
            choices[i].alone = way % 2 == 1;
          }
          const auto session = make_session(p, data, isa, threads, choices);
          for (size_t i = 0; i < choices.size(); ++i) {
            CAPTURE(isa_name(isa));
            CAPTURE(p.index.steps[i].name);
            CAPTURE(choices[i].path);
            const std::string path = choices[i].path == "spread" ? "tile" : choices[i].path;
            CHECK((path.empty() || path == session->path(i)));
            CHECK(wrong_of_step(*session, i, kernels(isa)) == "");
            CHECK(wrong_bytes(p, *session, p.index.steps[i].out[0]) == 0);
            taken.insert(choices[i].path);
          }
        }
      }
    }
  }
  for (const char* path : {"", "thin", "gemv", "tile"}) CHECK(taken.count(path) == 1);
}

TEST_CASE("a session refuses choices that a step has not") {
  SmallProgram p;
  p.finish({p.gemm(p.quantize(p.input({3, 20})), 3, {19, 1, 1, 0, 1, false, -1, DType::kF32})});
  const AlignedBuffer data = p.data();
  const auto made = [&](const std::vector<Choice>& choices) {
    std::unique_ptr<Session> session;
    return Session::create(p.index, data.data(), data.size(), Isa::kScalar, 2, &session, {}, choices);
  };
  const size_t steps = p.index.steps.size();
  CHECK(made(std::vector<Choice>(steps)).ok());
  CHECK(made(std::vector<Choice>(steps, {"", true})).ok());
  for (const size_t count : {size_t{1}, steps + 1}) {
    CHECK(made(std::vector<Choice>(count)).code() == Code::kValue);
  }
  for (size_t i = 0; i < steps; ++i) {
    for (const char* path : {"gemv", "abacus"}) {
      std::vector<Choice> choices(steps);
      choices[i].path = path;
      const Status refused = made(choices);
      CHECK(refused.code() == Code::kValue);
      CHECK(refused.message().find(p.index.steps[i].name) != std::string::npos);
      CHECK(refused.message().find(path) != std::string::npos);
      const bool product = p.index.steps[i].kind == StepKind::kGemm;
      CHECK(refused.message().find(product ? "it can take tile" : "it has none to choose") != std::string::npos);
    }
  }
}

TEST_CASE("a step says which code it runs") {
  SmallProgram p;
  const uint32_t deep = p.quantize(p.input({1, 300})), flat = p.quantize(p.input({1, 8})),
                 thin = p.quantize(p.input({5, 4}));
  const auto out = [](int64_t columns, DType dtype) {
    return SmallProgram::Conv{columns, 1, 1, 0, 1, false, -1, dtype};
  };
  const std::pair<uint32_t, const char*> products[] = {
      {p.gemm(deep, 1, out(600, DType::kU8)), "gemv"},  {p.gemm(deep, 1, out(256, DType::kF32)), "gemv"},
      {p.gemm(deep, 1, out(255, DType::kU8)), "tile"},  {p.gemm(deep, 3, out(600, DType::kU8)), "tile"},
      {p.gemm(flat, 1, out(256, DType::kF32)), "tile"},  // too little work for the plan to make it a block of its own
      {p.gemm(thin, 5, out(20, DType::kI32)), "thin"},  {p.gemm(thin, 5, out(20, DType::kF32)), "tile"}};
  std::vector<uint32_t> outputs;
  for (const auto& product : products) outputs.push_back(product.first);
  p.finish(outputs);
  const AlignedBuffer data = p.data();
  for (const Isa isa : available_isas()) {
    for (const int threads : {1, 3}) {
      const auto session = make_session(p, data, isa, threads);
      for (size_t i = 0; i < p.index.steps.size(); ++i) {
        CHECK(wrong_of_step(*session, i, kernels(isa)) == "");
        for (const auto& product : products) {
          if (p.index.steps[i].out[0] != product.first) continue;
          CAPTURE(i);
          CHECK(std::string(session->path(i)) == product.second);
          CHECK(wrong_bytes(p, *session, product.first) == 0);
        }
      }
    }
  }
}

#ifdef EK_TEST_COUNTS_ALLOCATIONS
TEST_CASE("running allocates nothing") {
  const SmallProgram p = every_kind();
  const AlignedBuffer data = p.data();
  std::vector<const void*> from;
  std::vector<Bytes> out;
  std::vector<void*> to;
  for (const uint32_t id : p.index.inputs) from.push_back(p.expected[id].data());
  for (const uint32_t id : p.index.outputs) out.push_back(p.expected[id]);
  for (Bytes& bytes : out) to.push_back(bytes.data());
  const size_t start = g_allocations;
  for (const int threads : {1, 4}) {
    const auto session = make_session(p, data, available_isas().front(), threads);
    const size_t before = g_allocations;
    CHECK(before > start);
    bool good = true;
    for (int run = 0; run < 5; ++run) good = session->run_segment(0).ok() && good;
    good = session->run(from.data(), to.data()).ok() && good;
    for (size_t i = 0; i < p.index.steps.size(); ++i) good = session->run_step(i).ok() && good;
    const size_t after = g_allocations;
    CHECK(good);
    CHECK(after == before);
  }
}
#endif

TEST_CASE("a caller's floating-point state changes no result and is given back") {
#if defined(__SSE__)
  SmallProgram p;
  const uint32_t x = p.input({1, 4});
  const float tiny[4] = {1e-39f, -1e-39f, 3e-39f, 1.0f};
  std::memcpy(p.expected[x].data(), tiny, sizeof tiny);
  const uint32_t y = p.tensor(DType::kU8, {1, 4}, 1e-39f, 10);
  p.step(StepKind::kQuantize, {x}, y);
  p.expected[y] = {11, 9, 13, 255};
  p.finish({y});
  const AlignedBuffer data = p.data();
  for (const Isa isa : available_isas()) {
    const auto session = make_session(p, data, isa, 1);
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);  // flush to zero, denormals are zero
    CHECK(session->run_segment(0).ok());
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    CHECK((after & 0x8040) == 0x8040);
    CHECK(wrong_bytes(p, *session, y) == 0);
  }
#endif
}

#if defined(__aarch64__) || \
    defined(__SANITIZE_THREAD__)  // step by step, or for the threads: the checks are the same there
constexpr size_t kStride = 11;
#else
constexpr size_t kStride = 1;
#endif

TEST_CASE("what validate accepts of a damaged index, a session runs without touching a byte that is not its own") {
  for (const SmallProgram& p : every_kind_in_parts()) {
    const AlignedBuffer data = p.data();
    std::string bytes = encode(p.index);
    size_t ran = 0;
    for (size_t at = 8; at < bytes.size(); at += kStride) {
      for (const unsigned flip : {0x01u, 0x80u}) {
        const char was = bytes[at];
        bytes[at] = static_cast<char>(static_cast<unsigned char>(was) ^ flip);
        ProgramIndex index;
        std::unique_ptr<Session> session;
        const bool decoded = decode(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(), &index).ok();
        bytes[at] = was;
        // An arena of terabytes may or may not be had; what is inside it is as it was.
        if (!decoded || index.arena_bytes > (uint64_t{1} << 32)) continue;
        if (!Session::create(index, data.data(), data.size(), Isa::kScalar, 1, &session).ok()) continue;
        // A damaged index tensor may leave its axis, which the run says.
        for (size_t i = 0; i < index.segments.size(); ++i) static_cast<void>(session->run_segment(i));
        ++ran;
      }
    }
    CHECK(ran > 50);
  }
}

TEST_CASE("an index that leaves its axis is named at the end of the run, and the next run is as good as any") {
  SmallProgram p;
  const uint32_t data = p.input({3, 2}), indices = p.tensor(DType::kI64, {2}), y = p.tensor(DType::kF32, {2, 2});
  p.index.inputs.push_back(indices);
  p.step(StepKind::kGather, {data, indices}, y, {{"outer", 1}, {"n", 3}, {"inner_bytes", 8}, {"count", 2}});
  p.finish({y});
  const AlignedBuffer blobs = p.data();
  for (const Isa isa : available_isas()) {
    const auto session = make_session(p, blobs, isa, 1);
    for (const int64_t last : {int64_t{-3}, int64_t{3}, int64_t{2}, int64_t{-4}}) {
      const int64_t chosen[2] = {1, last};
      float out[4] = {7, 7, 7, 7};
      const void* const from[] = {p.expected[data].data(), chosen};
      void* const to = out;
      const Status ended = session->run(from, &to);
      const bool inside = last >= -3 && last < 3;
      CHECK(ended.ok() == inside);
      if (!inside) {
        CHECK(ended.code() == Code::kValue);
        CHECK(ended.message().find("'n0' (Op35) was given the index " + std::to_string(last)) != std::string::npos);
        CHECK((out[2] == 0 && out[3] == 0));
      }
      CHECK(std::memcmp(out, p.expected[data].data() + 8, 8) == 0);
    }
  }
}

TEST_CASE("a session refuses what it cannot run") {
  SmallProgram p = every_kind();
  const AlignedBuffer data = p.data();
  const Isa best = available_isas().front();
  std::unique_ptr<Session> session;
  CHECK(Session::create(p.index, data.data(), data.size(), best, 0, &session).code() == Code::kValue);
  CHECK(Session::create(p.index, data.data(), data.size(), best, 1 << 20, &session).code() == Code::kValue);
  CHECK(Session::create(p.index, data.data() + 1, data.size(), best, 1, &session).code() == Code::kValue);
  CHECK(Session::create(p.index, data.data(), data.size() - 64, best, 1, &session).code() == Code::kCorrupt);
  const Isa foreign = best == Isa::kScalar || best >= Isa::kNeon ? Isa::kAvx2 : Isa::kNeon;
  CHECK(Session::create(p.index, data.data(), data.size(), foreign, 1, &session).code() == Code::kUnsupportedIsa);
  p.index.arena_bytes = uint64_t{1} << 62;
  CHECK(Session::create(p.index, data.data(), data.size(), best, 1, &session).code() == Code::kNoMemory);
  CHECK(session == nullptr);
}
