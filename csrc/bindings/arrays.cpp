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

const float* floats(std::string_view function, std::string_view argument, const py::array& a,
                    const std::vector<size_t>& shape) {
  const std::string where = std::string(function) + ": " + std::string(argument);
  if (!is_f32(a)) fail(Code::kType, where + " must be float32, got " + dtype_name(a));
  bool same = usize(a.ndim()) == shape.size();
  std::string wanted;
  for (size_t i = 0; i < shape.size(); ++i) {
    wanted += (i > 0 ? ", " : "") + std::to_string(shape[i]);
    same = same && usize(a.shape(static_cast<py::ssize_t>(i))) == shape[i];
  }
  if (!same) fail(Code::kValue, where + " must have shape (" + wanted + "), got " + shape_name(a));
  require_contiguous(function, argument, a);
  require_aligned(function, argument, a);
  return static_cast<const float*>(a.data());
}

}  // namespace ek
