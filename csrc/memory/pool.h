// MemoryPool: blocks of one piece of memory by best fit, for callers whose tensors come and go.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <utility>

#include "base/buffer.h"
#include "base/status.h"
#include "threads/turn.h"

namespace ek {

enum class PoolKind { kInput, kOutput, kIntermediate };
constexpr size_t kNumPoolKinds = 3;
constexpr std::array<const char*, kNumPoolKinds> kPoolKindNames = {"input", "output", "intermediate"};

struct PoolStatistics {
  size_t bytes = 0;         // of the pool
  size_t used = 0;          // in blocks, with their padding
  size_t peak = 0;          // the most of `used` so far
  size_t padding = 0;       // of `used`, what nobody asked for
  size_t largest_free = 0;  // the largest block that can be had
  size_t blocks = 0, holes = 0;
  std::array<size_t, kNumPoolKinds> used_by_kind{}, peak_by_kind{}, budgets{};
};

/// Any number of threads may call it; the child of a fork in another thread's call gets kForked. Its memory is taken by
/// create(); bookkeeping allocates a few words a block.
class MemoryPool {
 public:
  /// Blocks start at multiples of this, and take multiples of it.
  static constexpr size_t kAlignment = AlignedBuffer::kAlignment;

  /// `bytes` of which each kind may hold its budget; the budgets together are at most `bytes`. What they leave keeps
  /// best fit from failing on holes.
  static Status create(size_t bytes, const std::array<size_t, kNumPoolKinds>& budgets,
                       std::unique_ptr<MemoryPool>* made);

  /// The smallest hole that holds `bytes`, of those the lowest. kNoMemory tells whether the budget is used up or holes
  /// are too small. The bytes hold what they held before.
  Status allocate(PoolKind kind, size_t bytes, uint8_t** block);
  /// Joins the block with the holes around it; kValue where no block begins at `block`.
  Status release(const void* block);
  Status statistics(PoolStatistics* found);

 private:
  struct Block {
    PoolKind kind;
    size_t taken, asked;
  };
  using Holes = std::map<size_t, size_t>;  // sizes by offset

  MemoryPool(size_t bytes, const std::array<size_t, kNumPoolKinds>& budgets);
  /// Runs body(), which returns a Status, alone on the pool.
  template <typename Body>
  Status alone(Body&& body);
  Status take_block(PoolKind kind, size_t bytes, uint8_t** block);
  Status give_back(const void* block);
  void add_hole(size_t offset, size_t size);
  void drop_hole(Holes::iterator hole);

  AlignedBuffer memory_;
  Turn turn_;
  bool torn_ = false;               // changed only during a turn, and never back
  std::map<size_t, Block> blocks_;  // by offset
  Holes holes_;
  std::set<std::pair<size_t, size_t>> by_size_;  // the holes as size, offset
  PoolStatistics statistics_;
};

}  // namespace ek
