// What the bindings ask of NumPy arrays, in one place: dtype, rank, layout. Messages name function, argument, rule,
// fact, remedy.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <string_view>
#include <vector>

#include "base/buffer.h"
#include "base/checked.h"
#include "bindings/errors.h"
#include "kernels/kernels.h"

namespace ek {

namespace py = pybind11;

[[noreturn]] inline void fail(Code code, const std::string& message) {
  throw_if_error({code, message});
  throw std::logic_error("throw_if_error returned");  // not reached: code is never kOk
}

inline std::string dtype_name(const py::array& a) { return py::str(a.dtype()); }

inline std::string shape_name(const py::array& a) {
  std::string s = "(";
  for (py::ssize_t i = 0; i < a.ndim(); ++i) s += (i ? ", " : "") + std::to_string(a.shape(i));
  return s + (a.ndim() == 1 ? ",)" : ")");
}

inline bool is_u8(const py::array& a) { return py::isinstance<py::array_t<uint8_t>>(a); }
inline bool is_s8(const py::array& a) { return py::isinstance<py::array_t<int8_t>>(a); }
inline bool is_f32(const py::array& a) { return py::isinstance<py::array_t<float>>(a); }
inline bool is_i32(const py::array& a) { return py::isinstance<py::array_t<int32_t>>(a); }

/// The sign of an 8-bit array, or a TypeError.
inline Sign sign_of(std::string_view function, std::string_view argument, const py::array& a) {
  if (is_u8(a)) return Sign::kU8;
  if (is_s8(a)) return Sign::kS8;
  fail(Code::kType, std::string(function) + ": " + std::string(argument) + " must be uint8 or int8, got " +
                        dtype_name(a) + (is_f32(a) ? "; call quantize_linear first" : ""));
}

inline void require_rank(std::string_view function, std::string_view argument, const py::array& a, py::ssize_t rank) {
  if (a.ndim() == rank) return;
  fail(Code::kValue, std::string(function) + ": " + std::string(argument) + " must have " + std::to_string(rank) +
                         (rank == 1 ? " axis" : " axes") + ", got shape " + shape_name(a));
}

inline bool is_aligned(const py::array& a) { return (a.flags() & py::detail::npy_api::NPY_ARRAY_ALIGNED_) != 0; }

/// Elements that can be read where they lie: rows of a packed record need not start at a multiple of their items' size.
inline void require_aligned(std::string_view function, std::string_view argument, const py::array& a) {
  if (is_aligned(a)) return;
  fail(Code::kValue, std::string(function) + ": " + std::string(argument) +
                         " has elements that do not lie at multiples of " + std::to_string(a.itemsize()) +
                         " bytes; pass " + std::string(argument) + ".copy()");
}

inline void require_contiguous(std::string_view function, std::string_view argument, const py::array& a) {
  if ((a.flags() & py::array::c_style) != 0) return;
  fail(Code::kValue, std::string(function) + ": " + std::string(argument) +
                         " must be C-contiguous, got strides that are not; pass numpy.ascontiguousarray(" +
                         std::string(argument) + ")");
}

/// Results of at least so many bytes start on a line of 64 bytes, where vectors store without splitting lines; NumPy's
/// own large arrays start 16 bytes past a page. From kMappedFrom on they are mapped with huge pages: the C library asks
/// the system for each array of that size, too.
constexpr size_t kAlignedFrom = size_t{64} << 10, kMappedFrom = size_t{32} << 20;

/// Zeroed memory, or a MemoryBudgetError in the name of the function.
AlignedBuffer new_buffer(std::string_view function, size_t bytes);
/// Refuses in the function's name what memory cannot hold.
void require_memory_for(std::string_view function, size_t bytes);

/// A C-contiguous array of its own, not initialized.
py::array new_array(std::string_view function, const py::dtype& dtype, const std::vector<py::ssize_t>& shape);

/// `out` as given (dtype T, this shape, contiguous, writeable), or a new array.
template <typename T>
py::array out_or_new(std::string_view function, const py::object& out, const std::vector<py::ssize_t>& shape) {
  if (out.is_none()) return new_array(function, py::dtype::of<T>(), shape);
  if (!py::isinstance<py::array>(out)) {
    fail(Code::kType, std::string(function) + ": out must be a NumPy array, got " +
                          std::string(py::str(py::type::of(out).attr("__name__"))));
  }
  py::array a = py::reinterpret_borrow<py::array>(out);
  if (!py::isinstance<py::array_t<T>>(a)) {
    fail(Code::kType, std::string(function) + ": out must be " + std::string(py::str(py::dtype::of<T>())) + ", got " +
                          dtype_name(a));
  }
  bool same = a.ndim() == static_cast<py::ssize_t>(shape.size());
  std::string wanted = "(";
  for (size_t i = 0; i < shape.size(); ++i) {
    wanted += (i ? ", " : "") + std::to_string(shape[i]);
    same = same && a.shape(static_cast<py::ssize_t>(i)) == shape[i];
  }
  if (!same) fail(Code::kValue, std::string(function) + ": out must have shape " + wanted + "), got " + shape_name(a));
  require_contiguous(function, "out", a);
  if (!is_aligned(a)) {
    fail(Code::kValue, std::string(function) + ": out does not start at a multiple of " + std::to_string(sizeof(T)) +
                           " bytes; pass an array that NumPy allocated");
  }
  if (!a.writeable()) fail(Code::kValue, std::string(function) + ": out is read-only; pass a writeable array");
  return a;
}

inline size_t usize(py::ssize_t n) { return static_cast<size_t>(n); }

/// The values of a float32, C-contiguous, aligned array of this shape.
const float* floats(std::string_view function, std::string_view argument, const py::array& a,
                    const std::vector<size_t>& shape);

/// The runtime of one call: ISA by name ("" is the package's choice) and threads (0 is the package's setting).
Runtime make_runtime(const std::string& isa, int threads);

}  // namespace ek
