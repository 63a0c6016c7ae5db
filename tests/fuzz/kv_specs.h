// The caches whose states are fuzzed: every format, small.
#pragma once

#include "kvcache/cache.h"

namespace ek::fuzz {

inline constexpr const char* kFormats[] = {"float32", "float16", "bfloat16", "int8", "k8v4", "int4", "article"};

inline KvSpec kv_spec(uint8_t which) {
  KvSpec s;
  s.layers = 1 + which / 8 % 2, s.kv_heads = 1, s.query_heads = 2, s.head_dim = 8;
  s.window = 6, s.sinks = which / 16 % 3, s.max_chunk = 3, s.rewind = 2;
  kv_formats(kFormats[which % 8 % std::size(kFormats)], &s.k, &s.v, &s.query_bits);
  return s;
}

}  // namespace ek::fuzz
