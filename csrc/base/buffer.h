// AlignedBuffer: memory that starts on a cache line; large ones ask for huge pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace ek {

class AlignedBuffer {
 public:
  static constexpr size_t kAlignment = 64;

  AlignedBuffer() = default;
  /// `size` bytes, zeroed; pages of a large one are not touched before they are used. Throws NoMemory,
  /// also for more than this process can have.
  explicit AlignedBuffer(size_t size);

  uint8_t* data() { return bytes_.get(); }
  const uint8_t* data() const { return bytes_.get(); }
  size_t size() const { return size_; }

  /// What a buffer of `size` bytes takes of the system at most: to the end of its last huge page, where it has its own.
  static size_t taken_bytes(size_t size);

 private:
  struct Free {
    size_t mapped;  // bytes; 0: from aligned_alloc
    void operator()(uint8_t* p) const;
  };
  using Bytes = std::unique_ptr<uint8_t, Free>;
  Bytes bytes_{nullptr, Free{0}};
  size_t size_ = 0;
};

/// Room borrowed from the calling thread for as long as this object lives: what a thread keeps grows with its calls, so
/// that most of them allocate nothing. A call inside another one on the same thread gets room of its own.
class ThreadRoom {
 public:
  /// At least `size` bytes, 64-byte aligned, with whatever they held before. Throws NoMemory.
  explicit ThreadRoom(size_t size);
  ~ThreadRoom();
  ThreadRoom(const ThreadRoom&) = delete;
  ThreadRoom& operator=(const ThreadRoom&) = delete;

  uint8_t* data() { return buffer_.data(); }

 private:
  AlignedBuffer buffer_;
};

}  // namespace ek
