// RingKVCache's core as a Python object: what its own binding and the decoder's share.
#pragma once

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "kvcache/shared_cache.h"

namespace ek {

struct KvCache : SharedCache {
  /// Runs body without the GIL and alone on the cache, and raises what it answers.
  template <typename F>
  void run(F&& body) {
    Status status;
    {
      const WithoutGil released;
      status = alone(body);
    }
    throw_if_error(status);
  }

  /// The cache for a look that does not wait.
  RingCache& whole() const {
    throw_if_error(check_whole());
    return *cache;
  }
};

}  // namespace ek
