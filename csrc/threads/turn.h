// Turn: one caller at a time, also in the child of a fork.
#pragma once

#include <atomic>
#include <cstdint>

namespace ek {

/// A lock whose holder is known by its process. The child of a fork has the memory of its parent and none of its other
/// threads: a std::mutex that one of them held there is never given back here. A Turn is taken over instead, and says
/// so: what it guards may be half changed.
class Turn {
 public:
  Turn() = default;
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

  /// Waits until nobody else of this process holds it. True when the one before was a thread of the parent process that
  /// had not given it back when this process was forked.
  [[nodiscard]] bool take();
  void give_back();
  /// Whether take() would answer true now.
  bool orphaned() const;

  /// A turn that is taken for as long as this object lives.
  class Guard {
   public:
    explicit Guard(Turn& turn) : turn_(turn), orphaned_(turn.take()) {}
    ~Guard() { turn_.give_back(); }
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    bool orphaned() const { return orphaned_; }

   private:
    Turn& turn_;
    const bool orphaned_;
  };

 private:
  std::atomic<uint32_t> word_{0};  // 0: free; else 2 * generation of the holder's process, + 1 where others wait
};

}  // namespace ek
