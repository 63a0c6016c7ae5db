// Weights that lie somewhere else at each pin, and are gone behind it: whoever kept an address reads other bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <map>
#include <utility>

#include "base/buffer.h"
#include "reference.h"
#include "weights/source.h"

namespace ek::test {

class MovingWeights final : public WeightSource {
 public:
  struct Counts {
    size_t pins = 0, pinned_now = 0;
  };

  MovingWeights(const AlignedBuffer& from, Counts* counts) : from_(from), counts_(*counts) {}

  uint64_t size() const override { return from_.size(); }

  const uint8_t* pin(uint64_t offset, uint64_t bytes) noexcept override {
    Range& range = ranges_[{offset, bytes}];
    if (range.pins++ == 0) {
      range.now = &rooms_.emplace_back(static_cast<size_t>(bytes));
      std::copy_n(from_.data() + offset, bytes, range.now->data());
    }
    ++counts_.pins;
    ++counts_.pinned_now;
    return range.now->data();
  }

  void unpin(uint64_t offset, uint64_t bytes) noexcept override {
    Range& range = ranges_.at({offset, bytes});
    if (--range.pins == 0) std::fill_n(range.now->data(), bytes, uint8_t{0x5A});  // poisoned, and never used again
    --counts_.pinned_now;
  }

 private:
  struct Range {
    size_t pins = 0;
    AlignedBuffer* now = nullptr;
  };

  const AlignedBuffer& from_;
  Counts& counts_;
  std::deque<AlignedBuffer> rooms_;
  std::map<std::pair<uint64_t, uint64_t>, Range> ranges_;
};

}  // namespace ek::test
