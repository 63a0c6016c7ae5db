#include "bindings/arrays.h"

#include <cstdlib>
#include <memory>
#include <new>

#include "base/memory_limit.h"

namespace ek {

namespace {
[[noreturn]] void fail_for_memory(std::string_view function, uint64_t bytes) {
  fail(Code::kNoMemory, std::string(function) + ": " + NoMemory(bytes).what());
}
}  // namespace

void require_memory_for(std::string_view function, size_t bytes) {
  if (bytes > memory_limit()) fail_for_memory(function, bytes);
}

AlignedBuffer new_buffer(std::string_view function, size_t bytes) {
  try {
    return AlignedBuffer(bytes);
  } catch (const std::bad_alloc&) {
    fail_for_memory(function, bytes);
  }
}

py::array new_array(std::string_view function, const py::dtype& dtype, const std::vector<py::ssize_t>& shape) {
  size_t bytes = usize(dtype.itemsize());
  for (const py::ssize_t n : shape) {
    if (!checked_mul(bytes, usize(n), &bytes)) fail_for_memory(function, SIZE_MAX);
  }
  if (bytes < kAlignedFrom) return py::array(dtype, shape);
  if (bytes >= kMappedFrom) {
    auto buffer = std::make_unique<AlignedBuffer>(new_buffer(function, bytes));
    void* const data = buffer->data();
    const py::capsule owner(buffer.release(), [](void* p) { delete static_cast<AlignedBuffer*>(p); });
    return py::array(dtype, shape, data, owner);
  }
  void* const data = std::aligned_alloc(AlignedBuffer::kAlignment, round_up(bytes, AlignedBuffer::kAlignment));
  if (data == nullptr) fail_for_memory(function, bytes);
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
