#include "bindings/arrays.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "base/buffer.h"

namespace ek {

py::array new_array(const py::dtype& dtype, const std::vector<py::ssize_t>& shape) {
  size_t bytes = usize(dtype.itemsize());
  for (const py::ssize_t n : shape) {
    if (!checked_mul(bytes, usize(n), &bytes)) throw std::bad_alloc();
  }
  if (bytes < kAlignedFrom) return py::array(dtype, shape);
  if (bytes >= kMappedFrom) {
    auto buffer = std::make_unique<AlignedBuffer>(bytes);
    void* const data = buffer->data();
    const py::capsule owner(buffer.release(), [](void* p) { delete static_cast<AlignedBuffer*>(p); });
    return py::array(dtype, shape, data, owner);
  }
  void* const data = std::aligned_alloc(AlignedBuffer::kAlignment, round_up(bytes, AlignedBuffer::kAlignment));
  if (data == nullptr) throw std::bad_alloc();
  return py::array(dtype, shape, data, py::capsule(data, std::free));
}

}  // namespace ek
