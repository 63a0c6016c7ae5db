// Checked sizes, aligned memory, floating-point state, and the ISAs that this run has to have.
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "base/fp_env.h"
#include "base/memory_limit.h"
#include "base/status.h"
#include "cpu/isa.h"

using namespace ek;

TEST_CASE("checked arithmetic says when a size does not fit") {
  const size_t most = std::numeric_limits<size_t>::max();
  size_t out = 0;
  CHECK(checked_mul(most / 2, 2, &out));
  CHECK(out == most - 1);
  CHECK_FALSE(checked_mul(most / 2 + 1, 2, &out));
  CHECK(checked_add(most - 1, 1, &out));
  CHECK_FALSE(checked_add(most, 1, &out));
  CHECK(round_up(0, 16) == 0);
  CHECK(round_up(17, 16) == 32);
  CHECK(ceil_div(17, 16) == 2);
}

TEST_CASE("aligned buffers are zeroed and aligned at every size") {
  for (const size_t size : {size_t{0}, size_t{1}, size_t{63}, size_t{4096}, size_t{5} << 20}) {
    const AlignedBuffer buffer(size);
    CHECK(buffer.size() == size);
    CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % AlignedBuffer::kAlignment == 0);
    CHECK(std::all_of(buffer.data(), buffer.data() + size, [](uint8_t b) { return b == 0; }));
  }
  CHECK_THROWS_AS(AlignedBuffer(std::numeric_limits<size_t>::max() - 10), std::bad_alloc);
}

TEST_CASE("more memory than this process can have is refused before the system grants it") {
  REQUIRE(memory_limit() > size_t{64} << 20);
  try {
    const AlignedBuffer buffer(memory_limit() + 1);
    FAIL("it was granted");
  } catch (const NoMemory& error) {
    const std::string said = error.what();
    CHECK(said.find("no memory for " + std::to_string(memory_limit() + 1) + " bytes") != std::string::npos);
  }
}

TEST_CASE("buffers of some megabytes share huge pages: zeroed, apart, freed in any order and by any thread") {
  constexpr size_t kMega = size_t{1} << 20;
  std::vector<AlignedBuffer> kept;
  const auto all_zero = [](const AlignedBuffer& buffer) {
    return std::all_of(buffer.data(), buffer.data() + buffer.size(), [](uint8_t byte) { return byte == 0; });
  };
  for (size_t i = 0; i < 40; ++i) {  // more than one stretch of address space
    AlignedBuffer buffer(2 * kMega + i * 150'001 % (5 * kMega));
    REQUIRE(all_zero(buffer));
    std::fill_n(buffer.data(), buffer.size(), static_cast<uint8_t>(i + 1));
    if (i % 3 != 0) kept.push_back(std::move(buffer));
  }
  size_t fill = 0;
  for (size_t i = 0, k = 0; i < 40; ++i) {
    if (i % 3 == 0) continue;
    const AlignedBuffer& buffer = kept[k++];
    const auto same = [i](uint8_t byte) { return byte == i + 1; };
    fill += std::all_of(buffer.data(), buffer.data() + buffer.size(), same) ? 1 : 0;
  }
  CHECK(fill == kept.size());
  std::thread([&] {
    kept.erase(kept.begin() + 3, kept.begin() + 9);
    kept.emplace_back(3 * kMega);
  }).join();
  CHECK(all_zero(kept.back()));  // its thread has ended
}

#if defined(__SSE__)
TEST_CASE("the guard sets round-to-even without flush-to-zero and gives the caller's state back") {
  const unsigned before = _mm_getcsr();
  _mm_setcsr(before | 0x8040 | 0x2000);  // flush to zero, denormals are zero, round down: as -ffast-math leaves it
  const unsigned changed = _mm_getcsr();
  {
    const FpGuard guard;
    volatile float tiny = std::numeric_limits<float>::min();
    CHECK(tiny / 2 > 0.0f);
    CHECK((_mm_getcsr() & 0xE040) == 0);
  }
  CHECK((_mm_getcsr() & 0xFFC0) == (changed & 0xFFC0));
  _mm_setcsr(before);
}
#endif

TEST_CASE("scalar is always available, last, and every name resolves to itself") {
  CHECK(available_isas().back() == Isa::kScalar);
  for (const Isa isa : available_isas()) {
    Isa resolved = Isa::kScalar;
    CHECK(resolve_isa(isa_name(isa), &resolved).ok());
    CHECK(resolved == isa);
  }
}

TEST_CASE("an ISA that the CPU lacks is refused by name") {
  Isa isa = Isa::kScalar;
  for (const char* name : {"avx512vnni", "neon_i8mm", "sse9"}) {
    const auto& have = available_isas();
    if (std::any_of(have.begin(), have.end(), [&](Isa i) { return std::string(name) == isa_name(i); })) continue;
    const Status status = resolve_isa(name, &isa);
    CHECK(status.code() == Code::kUnsupportedIsa);
    CHECK(status.message().find(name) != std::string::npos);
    CHECK(status.message().find("scalar") != std::string::npos);
  }
}

TEST_CASE("this run has the ISAs that CI requires") {
  const char* required = std::getenv("EDGEKERN_REQUIRED_ISAS");
  std::istringstream names(required == nullptr ? "" : required);
  for (std::string name; names >> name;) {
    CAPTURE(name);
    Isa isa = Isa::kScalar;
    CHECK(resolve_isa(name, &isa).ok());
  }
}
