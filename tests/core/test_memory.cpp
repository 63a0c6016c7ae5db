// The planner, and the checker that trusts no planner.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "memory/planner.h"
#include "reference.h"

using namespace ek;
using namespace ek::test;

namespace {

std::string reason(const std::vector<Buffer>& buffers, const std::vector<uint64_t>& offsets, uint64_t capacity) {
  return check_plan(buffers, offsets, 64, capacity).message();
}
bool says(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

}  // namespace

TEST_CASE("random problems get plans that the checker accepts, and none below the lower bound") {
  for (int round = 0; round < 300; ++round) {
    std::vector<Buffer> buffers(static_cast<size_t>(uniform(0, 60)));
    for (Buffer& b : buffers) {
      b.lower = uniform(-5, 40);
      b.upper = b.lower + uniform(1, 12);
      b.size = static_cast<uint64_t>(uniform(0, 5000));
    }
    MemoryPlan plan;
    REQUIRE(plan_memory(buffers, 64, &plan).ok());
    CHECK(reason(buffers, plan.offsets, plan.peak) == "");
    CHECK(plan.peak >= plan.lower_bound);
    MemoryPlan again;
    REQUIRE(plan_memory(buffers, 64, &again).ok());
    CHECK(again.offsets == plan.offsets);
  }
}

TEST_CASE("a chain of layers is planned at its lower bound") {
  std::vector<Buffer> buffers;
  for (int64_t i = 0; i < 50; ++i) buffers.push_back({i, i + 2, 64 * static_cast<uint64_t>(uniform(1, 100))});
  MemoryPlan plan;
  REQUIRE(plan_memory(buffers, 64, &plan).ok());
  CHECK(plan.peak == plan.lower_bound);
}

TEST_CASE("what ends makes room for what starts at the same time") {
  MemoryPlan plan;
  REQUIRE(plan_memory({{0, 3, 100}, {3, 9, 100}}, 64, &plan).ok());
  CHECK(plan.peak == 128);
  CHECK(plan.offsets == std::vector<uint64_t>{0, 0});
}

TEST_CASE("impossible problems are refused") {
  MemoryPlan plan;
  CHECK(says(plan_memory({{5, 5, 64}}, 64, &plan).message(), "upper must be greater than lower"));
  CHECK(says(plan_memory({{0, 1, UINT64_MAX}}, 64, &plan).message(), "2^62"));
  CHECK(says(plan_memory({{0, 1, uint64_t{1} << 61}, {0, 1, (uint64_t{1} << 61) + 1}}, 64, &plan).message(), "2^62"));
  CHECK(says(plan_memory({{0, 1, 64}}, 0, &plan).message(), "alignment"));
}

TEST_CASE("the checker names what is wrong with a plan") {
  const std::vector<Buffer> two = {{0, 2, 64}, {1, 3, 100}};
  CHECK(reason(two, {0, 64}, 256) == "");
  CHECK(says(reason(two, {0, 0}, 256), "buffer 0"));
  CHECK(says(reason(two, {0, 0}, 256), "overlap in space and time"));
  CHECK(says(reason(two, {64, 0}, 256), "overlap"));
  CHECK(says(reason(two, {0, 32}, 256), "no multiple of 64"));
  CHECK(says(reason(two, {0, 192}, 256), "leaves the arena"));
  CHECK(says(reason(two, {0, UINT64_MAX - 63}, 256), "leaves the arena"));
  CHECK(says(reason(two, {0}, 256), "1 offsets for 2 buffers"));
  CHECK(says(reason({{2, 0, 64}}, {0}, 256), "ends before it starts"));
  CHECK(reason({{0, 1, 64}, {1, 2, 64}, {3, 3, 64}}, {0, 0, 0}, 64) == "");
}

TEST_CASE("the checker finds an overlap between any two of many") {
  for (int round = 0; round < 200; ++round) {
    std::vector<Buffer> buffers(20);
    std::vector<uint64_t> offsets(20);
    for (size_t i = 0; i < buffers.size(); ++i) {
      const int64_t lower = uniform(0, 8);
      buffers[i] = {lower, lower + uniform(0, 4), static_cast<uint64_t>(uniform(0, 4) * 32)};
      offsets[i] = static_cast<uint64_t>(uniform(0, 40)) * 64;
    }
    bool overlaps = false;
    for (size_t i = 0; i < buffers.size(); ++i) {
      for (size_t j = 0; j < i; ++j) {
        const Buffer &a = buffers[i], &b = buffers[j];
        const bool alive = a.lower < b.upper && b.lower < a.upper && a.lower < a.upper && b.lower < b.upper;
        overlaps |= alive && offsets[i] < offsets[j] + b.size && offsets[j] < offsets[i] + a.size && a.size && b.size;
      }
    }
    CHECK(check_plan(buffers, offsets, 64, 1 << 20).ok() != overlaps);
  }
}
