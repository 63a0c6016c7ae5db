// What the builtins with a fast lane share: arguments and arrays looked at in place. Whatever is not plain is no error
// here, it takes the general path, which has all rules and all messages.
#pragma once

#include "bindings/arrays.h"
#include "bindings/gemm_operands.h"
#include "threads/pool.h"

namespace ek {

/// Types and descriptors, compared by address. Made by bind_fastcall(), never released.
struct KnownTypes {
  PyTypeObject* array;
  PyTypeObject* packed;
  PyObject *u8, *s8, *i32, *f32;  // NumPy's own descriptors
};
inline KnownTypes g_known;

/// Work below which handing over the GIL costs more than it brings: about 5 us of one core.
inline constexpr double kReleaseMacs = 1e6;

/// Sorts arguments by name into `values`: positional ones, and keywords spelled in the call's source, whose names are
/// interned as `names` are. False: not that simple.
template <size_t N>
bool parse_fast(PyObject* const (&names)[N], Py_ssize_t max_positional, PyObject* const* given,
                Py_ssize_t num_positional, PyObject* keywords, PyObject* (&values)[N]) {
  if (num_positional > max_positional) return false;
  for (Py_ssize_t i = 0; i < num_positional; ++i) values[i] = given[i];
  const Py_ssize_t num_keywords = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t i = 0; i < num_keywords; ++i) {
    size_t at = 0;
    while (names[at] != PyTuple_GET_ITEM(keywords, i)) {
      if (++at == N) return false;
    }
    if (values[at] != nullptr) return false;
    values[at] = given[num_positional + i];
  }
  return true;
}

inline bool is_given(PyObject* value) { return value != nullptr && value != Py_None; }

/// An integer that is given as one, or `missing`; false for everything else.
inline bool small_int(PyObject* value, long missing, long* result) {
  *result = missing;
  if (value == nullptr) return true;
  if (!PyLong_Check(value) || PyBool_Check(value)) return false;
  int overflow = 0;
  *result = PyLong_AsLongAndOverflow(value, &overflow);
  return overflow == 0;
}

/// Number of threads: None and nothing are the package's setting.
inline bool thread_count(PyObject* value, long* result) {
  int package = 0;
  if (!is_given(value) && !told_num_threads(&package).ok()) return false;
  return small_int(is_given(value) ? value : nullptr, package, result) && *result >= 1 && *result <= kMaxThreads;
}

/// A C-contiguous aligned array of `rank` axes, with these flags.
inline const py::detail::PyArray_Proxy* plain_array(PyObject* value, int rank, int flags = 0) {
  if (Py_TYPE(value) != g_known.array) return nullptr;
  const auto* array = py::detail::array_proxy(value);
  const int wanted = flags | py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
  return array->nd == rank && (array->flags & wanted) == wanted ? array : nullptr;
}

/// Packed weights of 8 bits.
inline const PackedWeights* plain_weights(PyObject* value) {
  if (Py_TYPE(value) != g_known.packed) return nullptr;
  auto* instance = reinterpret_cast<py::detail::instance*>(value);
  if (!instance->simple_layout) return nullptr;
  const auto* weights = static_cast<const PackedWeights*>(instance->simple_value_holder[0]);
  return weights != nullptr && weights->bits() == 8 ? weights : nullptr;
}

/// `out` (m, n) of that descriptor where it is plain and leaves alone what it must not overlap; a new array where none
/// is given; null: not for the fast lane.
py::object plain_out(const char* function, PyObject* out, PyObject* descriptor, size_t m, size_t n, const void* x,
                     size_t x_bytes);

/// The package's kernels, or null where the environment asks for what this CPU has not.
const Kernels* plain_kernels();

}  // namespace ek
