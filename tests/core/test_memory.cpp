// The planner, and the checker that trusts no planner.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "memory/planner.h"
#include "memory/search.h"
#include "reference.h"

using namespace ek;
using namespace ek::test;

namespace {

std::string reason(const std::vector<Buffer>& buffers, const std::vector<uint64_t>& offsets, uint64_t capacity) {
  return check_plan(buffers, offsets, 64, capacity).message();
}
bool says(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

/// Every order, each buffer on top of what lies below it: some order gives the best plan.
void try_orders(const std::vector<Buffer>& buffers, std::vector<uint64_t>* tops, uint64_t peak, uint64_t* least) {
  if (peak >= *least) return;
  bool all = true;
  for (size_t i = 0; i < buffers.size(); ++i) {
    if ((*tops)[i] != 0) continue;
    all = false;
    uint64_t top = 0;
    for (size_t j = 0; j < buffers.size(); ++j) {
      if (buffers[i].lower < buffers[j].upper && buffers[j].lower < buffers[i].upper) top = std::max(top, (*tops)[j]);
    }
    (*tops)[i] = top + buffers[i].size;
    try_orders(buffers, tops, std::max(peak, (*tops)[i]), least);
    (*tops)[i] = 0;
  }
  if (all) *least = peak;
}

uint64_t least_peak(const std::vector<Buffer>& buffers) {
  std::vector<uint64_t> tops(buffers.size(), 0);
  uint64_t least = UINT64_MAX;
  try_orders(buffers, &tops, 0, &least);
  return least;
}

Fits search(const std::vector<Buffer>& buffers, uint64_t capacity, std::vector<uint64_t>* offsets) {
  Effort effort;
  effort.most_nodes = 1'000'000;
  offsets->assign(buffers.size(), 0);
  return search_fit(buffers, capacity, &effort, offsets);
}

/// A rectangle of bytes and time, cut into pieces, some of which then live a little longer or are a little larger:
/// there is hardly room for them.
std::vector<Buffer> pieces(size_t count) {
  std::vector<Buffer> all = {{0, 8, 12}};
  while (all.size() < count) {
    const size_t i = static_cast<size_t>(uniform(0, static_cast<int>(all.size()) - 1));
    Buffer &a = all[i], b = a;
    if (uniform(0, 1) == 0 && a.upper - a.lower > 1) {
      a.upper = b.lower = a.lower + uniform(1, static_cast<int>(a.upper - a.lower) - 1);
    } else if (a.size > 1) {
      a.size = static_cast<uint64_t>(uniform(1, static_cast<int>(a.size) - 1));
      b.size -= a.size;
    } else {
      continue;
    }
    all.push_back(b);
  }
  for (Buffer& b : all) {
    if (uniform(0, 4) == 0) b.upper += 1;
    if (uniform(0, 4) == 0) b.lower -= 1;
    if (uniform(0, 6) == 0) b.size += 1;
  }
  return all;
}

}  // namespace

TEST_CASE("the search says yes at the best peak of all orders and no to every capacity below") {
  for (int round = 0; round < 500; ++round) {
    const std::vector<Buffer> buffers = pieces(static_cast<size_t>(uniform(3, 9)));
    MemoryPlan plan;
    REQUIRE(plan_memory(buffers, 1, &plan).ok());
    const uint64_t least = least_peak(buffers);
    CHECK(plan.peak == least);
    CHECK(plan.least_peak == least);
    CHECK(plan.proved());
    std::vector<uint64_t> offsets;
    for (uint64_t capacity = plan.lower_bound - 1; capacity <= least + 1; ++capacity) {
      const Fits fits = search(buffers, capacity, &offsets);
      CHECK(fits == (capacity < least ? Fits::kNo : Fits::kYes));
      if (fits == Fits::kYes) CHECK(check_plan(buffers, offsets, 1, capacity).message() == "");
    }
  }
}

TEST_CASE("buffers alike are not tried in every order") {
  // 24 of 2 and one of 3 into 50: no order helps, and 24! of them are the same.
  std::vector<Buffer> buffers(24, {0, 4, 2});
  buffers.push_back({1, 3, 3});
  std::vector<uint64_t> offsets;
  CHECK(search(buffers, 50, &offsets) == Fits::kNo);
  CHECK(search(buffers, 51, &offsets) == Fits::kYes);
}

TEST_CASE("a search ends where its nodes or its time do") {
  std::vector<Buffer> buffers;
  for (int i = 0; i < 200; ++i) {
    const int64_t lower = uniform(0, 60);
    buffers.push_back({lower, lower + uniform(1, 15), static_cast<uint64_t>(uniform(1, 1000))});
  }
  MemoryPlan none, some, late;
  REQUIRE(plan_memory(buffers, 1, &none, {0, 100.0}).ok());
  CHECK(none.nodes == 0);
  CHECK(none.peak == none.greedy_peak);
  REQUIRE(none.peak > none.lower_bound);
  REQUIRE(plan_memory(buffers, 1, &some, {1000, 100.0}).ok());
  CHECK(some.nodes > 0);
  CHECK(some.nodes <= 1000);
  REQUIRE(plan_memory(buffers, 1, &late, {UINT64_MAX, 1e-9}).ok());
  CHECK(late.nodes <= 64);
  for (const double seconds : {0.0, -1.0, std::nan("")}) {
    CHECK(says(plan_memory(buffers, 1, &late, {1, seconds}).message(), "seconds must be greater than 0"));
  }
}

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
