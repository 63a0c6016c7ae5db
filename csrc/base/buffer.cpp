#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <new>

#include "base/checked.h"

namespace ek {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
}

AlignedBuffer::AlignedBuffer(size_t size) : size_(size) {
  const size_t alignment = size >= kHugePage ? kHugePage : kAlignment;
  const size_t bytes = round_up(size == 0 ? 1 : size, alignment);
  if (bytes < size) throw std::bad_alloc();
  void* p = std::aligned_alloc(alignment, bytes);
  if (p == nullptr) throw std::bad_alloc();
  if (alignment == kHugePage) madvise(p, bytes, MADV_HUGEPAGE);  // a wish: refusal changes speed, not results
  std::memset(p, 0, bytes);
  bytes_.reset(static_cast<uint8_t*>(p));
}

void AlignedBuffer::Free::operator()(uint8_t* p) const { std::free(p); }

}  // namespace ek
