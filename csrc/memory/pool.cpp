#include "memory/pool.h"

#include <algorithm>
#include <memory>
#include <string>

#include "base/checked.h"

namespace ek {
namespace {

std::string text(size_t bytes) { return std::to_string(bytes); }

}  // namespace

Status MemoryPool::create(size_t bytes, const std::array<size_t, kNumPoolKinds>& budgets,
                          std::unique_ptr<MemoryPool>* made) {
  if (bytes == 0 || bytes % kAlignment != 0) {
    return {Code::kValue, "a pool must have a positive multiple of " + text(kAlignment) + " bytes, got " + text(bytes)};
  }
  size_t sum = 0;
  for (size_t i = 0; i < kNumPoolKinds; ++i) {
    if (!checked_add(sum, budgets[i], &sum) || sum > bytes) {
      return {Code::kValue, "budgets of " + text(budgets[0]) + " (input), " + text(budgets[1]) + " (output) and " +
                                text(budgets[2]) + " bytes (intermediate) are more than the pool's " + text(bytes) +
                                "; make the pool larger or a budget smaller"};
    }
  }
  made->reset(new MemoryPool(bytes, budgets));
  return {};
}

MemoryPool::MemoryPool(size_t bytes, const std::array<size_t, kNumPoolKinds>& budgets) : memory_(bytes) {
  statistics_.bytes = bytes;
  statistics_.budgets = budgets;
  add_hole(0, bytes);
}

template <typename Body>
Status MemoryPool::alone(Body&& body) {
  const Turn::Guard guard(turn_);
  torn_ = torn_ || guard.orphaned();
  if (!torn_) {
    try {
      return body();
    } catch (...) {  // no memory for a word of bookkeeping, in the middle of a change
      torn_ = true;
      throw;
    }
  }
  return {Code::kForked,
          "another thread was changing this pool when the process was forked, so its copy in this "
          "process is half changed; make a new pool here, or fork while no thread is inside"};
}

Status MemoryPool::allocate(PoolKind kind, size_t bytes, uint8_t** block) {
  return alone([&] { return take_block(kind, bytes, block); });
}

Status MemoryPool::release(const void* block) {
  return alone([&] { return give_back(block); });
}

Status MemoryPool::statistics(PoolStatistics* found) {
  return alone([&]() -> Status {
    *found = statistics_;
    found->blocks = blocks_.size(), found->holes = holes_.size();
    found->largest_free = by_size_.empty() ? 0 : by_size_.rbegin()->first;
    return {};
  });
}

void MemoryPool::add_hole(size_t offset, size_t size) {
  holes_.emplace(offset, size);
  by_size_.emplace(size, offset);
}

void MemoryPool::drop_hole(Holes::iterator hole) {
  by_size_.erase({hole->second, hole->first});
  holes_.erase(hole);
}

Status MemoryPool::take_block(PoolKind kind, size_t bytes, uint8_t** block) {
  const auto at = static_cast<size_t>(kind);
  PoolStatistics& now = statistics_;
  if (bytes == 0) return {Code::kValue, "a block must have at least one byte"};
  if (bytes > now.bytes) {
    return {Code::kNoMemory, text(bytes) + " bytes are more than the whole pool of " + text(now.bytes)};
  }
  const size_t taken = round_up(bytes, kAlignment);
  if (taken > now.budgets[at] - now.used_by_kind[at]) {
    return {Code::kNoMemory, text(taken) + " bytes are more than the budget of '" + kPoolKindNames[at] +
                                 "' has left: " + text(now.used_by_kind[at]) + " of " + text(now.budgets[at]) +
                                 " are in use; release blocks or give the kind more"};
  }
  const auto fit = by_size_.lower_bound({taken, 0});
  if (fit == by_size_.end()) {
    const size_t largest = by_size_.empty() ? 0 : by_size_.rbegin()->first;
    return {Code::kNoMemory, text(taken) + " bytes fit into no hole: " + text(now.bytes - now.used) + " are free in " +
                                 text(holes_.size()) + " holes, the largest of " + text(largest) +
                                 "; release neighboring blocks or make the pool larger than its budgets"};
  }
  const size_t offset = fit->second, size = fit->first;
  drop_hole(holes_.find(offset));
  if (size > taken) add_hole(offset + taken, size - taken);
  blocks_.emplace(offset, Block{kind, taken, bytes});
  now.used += taken, now.padding += taken - bytes, now.used_by_kind[at] += taken;
  now.peak = std::max(now.peak, now.used);
  now.peak_by_kind[at] = std::max(now.peak_by_kind[at], now.used_by_kind[at]);
  *block = memory_.data() + offset;
  return {};
}

Status MemoryPool::give_back(const void* block) {
  const auto distance = reinterpret_cast<uintptr_t>(block) - reinterpret_cast<uintptr_t>(memory_.data());
  const auto found = blocks_.find(distance);
  if (found == blocks_.end()) {
    return {Code::kValue, distance < statistics_.bytes
                              ? "no block begins there: it was released before, or the address lies within one"
                              : "the address is not of this pool"};
  }
  const Block was = found->second;
  size_t offset = distance, size = was.taken;
  blocks_.erase(found);
  statistics_.used -= size, statistics_.padding -= size - was.asked;
  statistics_.used_by_kind[static_cast<size_t>(was.kind)] -= size;
  const auto after = holes_.find(offset + size);
  if (after != holes_.end()) {
    size += after->second;
    drop_hole(after);
  }
  auto before = holes_.lower_bound(offset);
  if (before != holes_.begin() && (--before)->first + before->second == offset) {
    offset = before->first, size += before->second;
    drop_hole(before);
  }
  add_hole(offset, size);
  return {};
}

}  // namespace ek
