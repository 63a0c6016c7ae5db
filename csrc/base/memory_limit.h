// What memory this process can have at most. Linux grants address space beyond it and kills whoever then touches the
// pages, so large requests are held to it before they are made.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace ek {

/// Bytes of memory and swap that the machine has and its control groups allow. Looked up once.
uint64_t memory_limit();

/// Memory that is not to be had, with its size.
class NoMemory : public std::bad_alloc {
 public:
  explicit NoMemory(uint64_t bytes) noexcept;
  const char* what() const noexcept override { return text_; }

 private:
  char text_[96];
};

/// Throws NoMemory when `bytes` pass memory_limit().
void require_memory(uint64_t bytes);

}  // namespace ek
