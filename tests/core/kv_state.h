// States of a cache that a test has altered.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace ek::test {

/// Puts the checksum right, as csrc/kvcache/state.cpp has it: what is behind it can then be seen.
inline void seal(std::vector<uint8_t>* state) {
  if (state->size() < 8) return;
  const size_t size = state->size() - 8;
  uint64_t sum = 0x9E3779B97F4A7C15u ^ size;
  for (size_t i = 0; i < size; i += 8) {
    uint64_t word = 0;
    std::memcpy(&word, state->data() + i, std::min<size_t>(size - i, 8));
    sum = (sum ^ word) * 0xD6E8FEB86659FD93u;
    sum ^= sum >> 32;
  }
  std::memcpy(state->data() + size, &sum, 8);
}

}  // namespace ek::test
