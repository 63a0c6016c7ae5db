// Memory that ends exactly at a page which must not be touched: an over-read faults, even from assembly.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <vector>

namespace ek::test {

template <typename T>
class Guarded {
 public:
  explicit Guarded(size_t count) : count_(count) {
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    bytes_ = (count * sizeof(T) + page - 1) / page * page;
    base_ =
        static_cast<char*>(mmap(nullptr, bytes_ + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base_ == MAP_FAILED || mprotect(base_ + bytes_, page, PROT_NONE) != 0) std::abort();
    mapped_ = bytes_ + page;
  }
  explicit Guarded(const std::vector<T>& values) : Guarded(values.size()) {
    if (!values.empty()) std::memcpy(data(), values.data(), values.size() * sizeof(T));
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, mapped_); }

  T* data() { return reinterpret_cast<T*>(base_ + bytes_ - count_ * sizeof(T)); }
  size_t size() const { return count_; }
  std::vector<T> values() { return {data(), data() + count_}; }

 private:
  size_t count_, bytes_ = 0, mapped_ = 0;
  char* base_ = nullptr;
};

}  // namespace ek::test
