// RingKVCache's core as a Python object: what its own binding and the decoder's share.
#pragma once

#include <memory>
#include <mutex>

#include "bindings/arrays.h"
#include "kvcache/cache.h"

namespace ek {

/// A cache and the lock that makes callers of several threads wait for each other.
struct KvCache {
  std::unique_ptr<RingCache> cache;
  std::mutex busy;

  /// Runs body without the GIL while holding the lock, and raises what it answers.
  template <typename F>
  void run(F&& body) {
    Status status;
    {
      py::gil_scoped_release release;
      const std::lock_guard<std::mutex> lock(busy);
      status = body();
    }
    throw_if_error(status);
  }
};

}  // namespace ek
