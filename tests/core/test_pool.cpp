// The pool from C: budgets, holes, blocks of others, and what a fork leaves.
#include <doctest/doctest.h>

#include <string>
#include <thread>
#include <vector>

#include "edgekern/edgekern.h"

namespace {

const ek_api& api() { return *edgekern_get_api(EDGEKERN_ABI_VERSION); }

bool refused(ek_status status, ek_status wanted, const std::string& words) {
  return status == wanted && std::string(api().error_message()).find(words) != std::string::npos;
}

}  // namespace

TEST_CASE("a pool from C holds its budgets and joins its holes") {
  const ek_pool_spec spec{64 * 8, {64 * 2, 64 * 2, 64 * 4}};
  ek_pool* pool = nullptr;
  REQUIRE(api().pool_create(&spec, &pool) == EK_OK);
  void* blocks[4] = {};
  for (void*& block : blocks) REQUIRE(api().pool_allocate(pool, EK_POOL_INTERMEDIATE, 50, &block) == EK_OK);
  CHECK(reinterpret_cast<uintptr_t>(blocks[1]) % 64 == 0);
  void* more = nullptr;
  CHECK(
      refused(api().pool_allocate(pool, EK_POOL_INTERMEDIATE, 1, &more), EK_ERROR_MEMORY, "budget of 'intermediate'"));
  CHECK(more == nullptr);
  CHECK(api().pool_allocate(pool, EK_POOL_INPUT, 128, &more) == EK_OK);

  ek_pool_statistics now;
  REQUIRE(api().pool_statistics(pool, &now) == EK_OK);
  CHECK(now.used == 64 * 6);
  CHECK(now.padding == 4 * 14);
  CHECK(now.used_by_kind[EK_POOL_INPUT] == 128);
  CHECK(now.holes == 1);

  CHECK(api().pool_release(pool, blocks[1]) == EK_OK);
  CHECK(refused(api().pool_release(pool, blocks[1]), EK_ERROR_VALUE, "released before"));
  CHECK(refused(api().pool_release(pool, static_cast<char*>(blocks[2]) + 8), EK_ERROR_VALUE, "within one"));
  CHECK(refused(api().pool_release(pool, &now), EK_ERROR_VALUE, "not of this pool"));
  CHECK(api().pool_release(pool, blocks[2]) == EK_OK);
  REQUIRE(api().pool_statistics(pool, &now) == EK_OK);
  CHECK(now.holes == 2);
  CHECK(now.largest_free == 128);
  void* joined = nullptr;  // both holes are of 128 bytes: the lower one
  CHECK(api().pool_allocate(pool, EK_POOL_OUTPUT, 128, &joined) == EK_OK);
  CHECK(joined == blocks[1]);
  CHECK(api().pool_release(pool, nullptr) == EK_OK);
  api().pool_free(pool);
  api().pool_free(nullptr);
}

TEST_CASE("a pool from C refuses what cannot be") {
  ek_pool* pool = nullptr;
  ek_pool_spec spec{100, {0, 0, 64}};
  CHECK(refused(api().pool_create(&spec, &pool), EK_ERROR_VALUE, "multiple of 64"));
  spec = {64, {SIZE_MAX, SIZE_MAX, 2}};
  CHECK(refused(api().pool_create(&spec, &pool), EK_ERROR_VALUE, "more than the pool's"));
  CHECK(refused(api().pool_create(nullptr, &pool), EK_ERROR_NULL, "spec"));
  spec = {64, {0, 0, 64}};
  REQUIRE(api().pool_create(&spec, &pool) == EK_OK);
  void* block = nullptr;
  CHECK(refused(api().pool_allocate(pool, 3, 1, &block), EK_ERROR_VALUE, "kind"));
  CHECK(refused(api().pool_allocate(pool, EK_POOL_INTERMEDIATE, 0, &block), EK_ERROR_VALUE, "at least one byte"));
  CHECK(refused(api().pool_allocate(pool, EK_POOL_INTERMEDIATE, SIZE_MAX, &block), EK_ERROR_MEMORY, "whole pool"));
  CHECK(refused(api().pool_allocate(nullptr, 0, 1, &block), EK_ERROR_NULL, "pool"));
  CHECK(refused(api().pool_release(nullptr, &spec), EK_ERROR_NULL, "pool"));
  CHECK(refused(api().pool_statistics(pool, nullptr), EK_ERROR_NULL, "statistics"));
  CHECK(block == nullptr);
  api().pool_free(pool);
}

TEST_CASE("threads take and release blocks of one pool") {
  const ek_pool_spec spec{64 * 1024, {0, 0, 64 * 1024}};
  ek_pool* pool = nullptr;
  REQUIRE(api().pool_create(&spec, &pool) == EK_OK);
  std::vector<std::thread> threads;
  for (int mark = 0; mark < 4; ++mark) {
    threads.emplace_back([&] {
      for (size_t i = 1; i < 200; ++i) {
        void* block = nullptr;
        if (api().pool_allocate(pool, EK_POOL_INTERMEDIATE, i, &block) != EK_OK) continue;
        static_cast<uint8_t*>(block)[i - 1] = 1;
        (void)api().pool_release(pool, block);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ek_pool_statistics now;
  REQUIRE(api().pool_statistics(pool, &now) == EK_OK);
  CHECK(now.used == 0);
  CHECK(now.largest_free == spec.bytes);
  api().pool_free(pool);
}
