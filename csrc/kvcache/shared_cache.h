// A ring cache that several threads may call: they wait for each other, also in the child of a fork.
#pragma once

#include <memory>

#include "kvcache/cache.h"
#include "threads/turn.h"

namespace ek {

struct SharedCache {
  std::unique_ptr<RingCache> cache;

  /// Runs body(), which returns a Status, alone on the cache.
  template <typename Body>
  Status alone(Body&& body) {
    const Turn::Guard guard(turn_);
    torn_ = torn_ || guard.orphaned();
    return torn_ ? forked() : body();
  }

  /// What looks at the cache without waiting asks this first.
  Status check_whole() const { return torn_ || turn_.orphaned() ? forked() : Status(); }

 private:
  static Status forked() {
    return {Code::kForked,
            "RingKVCache: another thread was changing this cache when the process was forked, so its copy in this "
            "process is half changed; make a new cache here, or fork while no thread is inside"};
  }

  Turn turn_;
  bool torn_ = false;  // changed only during a turn, and never back
};

}  // namespace ek
