// A pool of blocks for C.
#include <algorithm>
#include <iterator>
#include <memory>

#include "capi/capi.h"
#include "capi/failure.h"
#include "memory/pool.h"

struct ek_pool {
  std::unique_ptr<ek::MemoryPool> pool;
};

namespace ek {

static_assert(EK_POOL_KINDS == kNumPoolKinds && EK_POOL_OUTPUT == static_cast<int>(PoolKind::kOutput));

ek_status capi_pool_create(const ek_pool_spec* spec, ek_pool** pool) {
  return no_throw("pool_create", [&]() -> ek_status {
    if (spec == nullptr || pool == nullptr) return fail(EK_ERROR_NULL, "pool_create: spec or pool is null");
    std::array<size_t, kNumPoolKinds> budgets{};
    std::copy(std::begin(spec->budgets), std::end(spec->budgets), budgets.begin());
    auto made = std::make_unique<ek_pool>();
    const ek_status status = status_of("pool_create", MemoryPool::create(spec->bytes, budgets, &made->pool));
    if (status == EK_OK) *pool = made.release();
    return status;
  });
}

void capi_pool_free(ek_pool* pool) { delete pool; }

ek_status capi_pool_allocate(ek_pool* pool, ek_pool_kind kind, size_t bytes, void** block) {
  return no_throw("pool_allocate", [&]() -> ek_status {
    if (pool == nullptr || block == nullptr) return fail(EK_ERROR_NULL, "pool_allocate: pool or block is null");
    if (kind < 0 || kind >= EK_POOL_KINDS) {
      return fail(EK_ERROR_VALUE, "pool_allocate: kind must lie in [0, %d), got %d", EK_POOL_KINDS, kind);
    }
    uint8_t* found = nullptr;
    const ek_status status =
        status_of("pool_allocate", pool->pool->allocate(static_cast<PoolKind>(kind), bytes, &found));
    if (status == EK_OK) *block = found;
    return status;
  });
}

ek_status capi_pool_release(ek_pool* pool, void* block) {
  return no_throw("pool_release", [&]() -> ek_status {
    if (pool == nullptr) return fail(EK_ERROR_NULL, "pool_release: pool is null");
    return block == nullptr ? EK_OK : status_of("pool_release", pool->pool->release(block));
  });
}

ek_status capi_pool_statistics(ek_pool* pool, ek_pool_statistics* statistics) {
  return no_throw("pool_statistics", [&]() -> ek_status {
    if (pool == nullptr || statistics == nullptr) {
      return fail(EK_ERROR_NULL, "pool_statistics: pool or statistics is null");
    }
    PoolStatistics found;
    const ek_status status = status_of("pool_statistics", pool->pool->statistics(&found));
    if (status != EK_OK) return status;
    *statistics = {found.bytes, found.used, found.peak, found.padding, found.largest_free, found.blocks,
                   found.holes, {},         {}};
    std::copy(found.used_by_kind.begin(), found.used_by_kind.end(), statistics->used_by_kind);
    std::copy(found.peak_by_kind.begin(), found.peak_by_kind.end(), statistics->peak_by_kind);
    return EK_OK;
  });
}

}  // namespace ek
