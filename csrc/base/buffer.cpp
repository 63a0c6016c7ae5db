#include "base/buffer.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "base/checked.h"
#include "base/memory_limit.h"

namespace ek {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kKeptBytes = size_t{4} << 20;  // more goes back to the system

thread_local AlignedBuffer t_room;

constexpr size_t kOwnPages = 4 * kHugePage;     // from here on a buffer may waste the rest of its last huge page
constexpr size_t kShareBytes = 32 * kHugePage;  // address space that smaller ones share
constexpr size_t kPage = 4096;

/// Zero pages that start on a huge-page boundary; `bytes` is a multiple of kPage.
uint8_t* map_huge(size_t bytes) {
  size_t with_slack = 0;
  if (!checked_add(bytes, kHugePage, &with_slack)) throw NoMemory(bytes);
  void* p = mmap(nullptr, with_slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw NoMemory(bytes);
  uint8_t* const begin = static_cast<uint8_t*>(p);
  uint8_t* const aligned = reinterpret_cast<uint8_t*>(round_up(reinterpret_cast<size_t>(begin), kHugePage));
  const size_t before = static_cast<size_t>(aligned - begin);
  if (before != 0) munmap(begin, before);
  munmap(aligned + bytes, kHugePage - before);
  madvise(aligned, bytes, MADV_HUGEPAGE);  // a wish: refusal changes speed, not results
  return aligned;
}

/// Address space from which buffers of some huge pages are cut one behind the other, so that the end of one and the
/// start of the next share a huge page: the end of a matrix would be read at half the speed from small pages, and whole
/// ones for each would waste a fifth of a decoder's memory. Each buffer unmaps its own part. One a thread: no lock that
/// a fork could leave held.
class Share {
 public:
  ~Share() { drop(); }

  uint8_t* cut(size_t bytes) {
    if (left_ < bytes) {
      uint8_t* const fresh = map_huge(kShareBytes);
      drop();
      next_ = fresh;
      left_ = kShareBytes;
    }
    uint8_t* const p = next_;
    next_ += bytes;
    left_ -= bytes;
    return p;
  }

 private:
  void drop() {
    if (left_ != 0) munmap(next_, left_);
    left_ = 0;
  }

  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};
thread_local Share t_share;
}  // namespace

AlignedBuffer::AlignedBuffer(size_t size) : size_(size) {
  if (size >= kHugePage) {
    require_memory(size);
    const size_t page = size >= kOwnPages ? kHugePage : kPage;
    size_t padded = 0;
    if (!checked_add(size, page - 1, &padded)) throw NoMemory(size);
    const size_t bytes = padded / page * page;
    bytes_ = Bytes(size >= kOwnPages ? map_huge(bytes) : t_share.cut(bytes), Free{bytes});
    return;
  }
  const size_t bytes = round_up(size == 0 ? 1 : size, kAlignment);
  void* p = std::aligned_alloc(kAlignment, bytes);
  if (p == nullptr) throw NoMemory(bytes);
  std::memset(p, 0, bytes);
  bytes_ = Bytes(static_cast<uint8_t*>(p), Free{0});
}

size_t AlignedBuffer::taken_bytes(size_t size) {
  return round_up(size, size >= kOwnPages ? kHugePage : size >= kHugePage ? kPage : kAlignment);
}

void AlignedBuffer::Free::operator()(uint8_t* p) const {
  mapped == 0 ? std::free(p) : static_cast<void>(munmap(p, mapped));
}

ThreadRoom::ThreadRoom(size_t size) {
  std::swap(buffer_, t_room);
  if (buffer_.size() < size) buffer_ = AlignedBuffer(size + size / 2);
}

ThreadRoom::~ThreadRoom() {
  if (buffer_.size() <= kKeptBytes) std::swap(buffer_, t_room);
}

}  // namespace ek
