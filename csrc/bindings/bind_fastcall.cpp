// edgekern.matmul_integer: the public function itself, a builtin, because a Python wrapper and pybind11's conversions
// take as long as the arithmetic of a 64 x 64 x 64 product.
//
// The fast lane takes plain C-contiguous arrays and packed weights: it allocates nothing but a missing `out` and keeps
// the GIL where the product is shorter than handing it over. Every other call, the wrong ones included, goes to
// _core.matmul_integer, which has all rules and all messages.
#include <algorithm>
#include <optional>

#include "bindings/bindings.h"
#include "bindings/fastcall.h"
#include "bindings/gil.h"
#include "gemm/gemm.h"
#include "gemm/workspace.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr const char* kDoc =
    R"(matmul_integer($module, a, b, *, a_zero_point=0, b_zero_point=0, out=None, num_threads=None)
--

Multiply 8-bit matrices into int32 (ONNX ``MatMulInteger``).

Parameters
----------
a : (M, K) uint8 or int8 array, NumPy's or another library's on the CPU (DLPack, the buffer protocol)
    Rows must be contiguous; they may lie any distance apart.
b : (K, N) int8 array, or the result of :func:`pack_weights`
    An array is packed first, on every call.
a_zero_point : int
    Subtracted from every element of ``a``; must lie in the range of its dtype.
b_zero_point : int or (N,) integer array
    Subtracted from every element (or column) of ``b``.
out : (M, N) int32 array, optional
    Overwritten and returned; C-contiguous, not overlapping ``a``.
num_threads : int, optional
    Threads of this call; None is the package's setting, 1 stays on the caller's thread.

Returns
-------
(M, N) int32 array

Raises
------
ArgumentTypeError, ArgumentValueError
    When dtypes, shapes, strides or zero points do not fit; the message names both shapes.

Notes
-----
Equal on every CPU to ``(a.astype(np.int32) - a_zero_point) @ (b.astype(np.int32) - b_zero_point)``, for any K:
like NumPy's int32 it wraps modulo 2**32.)";

constexpr const char* kName = "matmul_integer";
constexpr const char* kNames[] = {"a", "b", "a_zero_point", "b_zero_point", "out", "num_threads"};
constexpr int kNumArgs = 6, kNumPositional = 2;
enum Arg { kA, kB, kAZeroPoint, kBZeroPoint, kOut, kNumThreads };

PyObject* g_names[kNumArgs];  // interned, as the names in compiled calls are
PyObject* g_general;          // _core.matmul_integer

/// Borrowed arguments, null where not given.
struct Args {
  PyObject* values[kNumArgs] = {};
};

/// Any legal spelling, and Python's own words for an illegal one.
Args parse_any(PyObject* const* given, Py_ssize_t num_positional, PyObject* keywords) {
  py::tuple positional(num_positional);
  for (Py_ssize_t i = 0; i < num_positional; ++i) positional[usize(i)] = py::handle(given[i]);
  py::dict named;
  const Py_ssize_t num_keywords = keywords == nullptr ? 0 : PyTuple_GET_SIZE(keywords);
  for (Py_ssize_t i = 0; i < num_keywords; ++i) {
    named[py::handle(PyTuple_GET_ITEM(keywords, i))] = py::handle(given[num_positional + i]);
  }
  char* names[kNumArgs + 1] = {};
  for (int i = 0; i < kNumArgs; ++i) names[i] = const_cast<char*>(kNames[i]);
  Args args;
  PyObject** v = args.values;  // the caller's references outlive the tuple
  if (PyArg_ParseTupleAndKeywords(positional.ptr(), named.ptr(), "OO|$OOOO:matmul_integer", names, &v[kA], &v[kB],
                                  &v[kAZeroPoint], &v[kBZeroPoint], &v[kOut], &v[kNumThreads]) == 0) {
    throw py::error_already_set();
  }
  return args;
}

/// What _core.matmul_integer refuses, or does better; `false` says nothing about which.
bool in_domain(Sign sign, long zero_point, long b_zero_point) {
  const long lowest = sign == Sign::kU8 ? 0 : -128;
  return zero_point >= lowest && zero_point <= lowest + 255 && b_zero_point == 0;
}

/// A new reference to C; null without an exception: this call is not for the fast lane.
PyObject* run_fast(const Args& args) {
  const auto* a = plain_array(args.values[kA], 2);
  const PackedWeights* weights = plain_weights(args.values[kB]);
  if (a == nullptr || weights == nullptr || (a->descr != g_known.u8 && a->descr != g_known.s8)) return nullptr;
  const Sign sign = a->descr == g_known.u8 ? Sign::kU8 : Sign::kS8;
  const size_t m = usize(a->dimensions[0]), k = usize(a->dimensions[1]), n = weights->shape.n;
  long zero_point = 0, b_zero_point = 0, threads = 0;
  if (!small_int(args.values[kAZeroPoint], 0, &zero_point) || !small_int(args.values[kBZeroPoint], 0, &b_zero_point) ||
      !thread_count(args.values[kNumThreads], &threads)) {
    return nullptr;
  }
  const Kernels* const table = plain_kernels();
  if (table == nullptr || !in_domain(sign, zero_point, b_zero_point) || k != weights->shape.k_per_tap) return nullptr;
  py::object c = plain_out(kName, args.values[kOut], g_known.i32, m, n, a->data, m * k);
  if (!c) return nullptr;

  GemmArgs gemm_args;
  gemm_args.m = m;
  gemm_args.a = reinterpret_cast<const uint8_t*>(a->data);
  gemm_args.lda = k;
  gemm_args.a_sign = sign;
  gemm_args.b = weights->view();
  gemm_args.c = py::detail::array_proxy(c.ptr())->data;
  gemm_args.ldc = n * sizeof(int32_t);
  std::optional<WithoutGil> released;
  if (static_cast<double>(m * k) * static_cast<double>(n) >= kReleaseMacs) released.emplace();
  const Workspace work(*table, &gemm_args, static_cast<int32_t>(zero_point), nullptr);
  gemm({table, static_cast<int>(threads)}, gemm_args);
  released.reset();
  return c.release().ptr();
}

/// The array itself, or what `make` of edgekern._arrays makes of another library's: a view, or the error that says why
/// not.
py::object array_of(const char* make, const char* argument, PyObject* value) {
  if (PyObject_TypeCheck(value, g_known.array)) return py::reinterpret_borrow<py::object>(value);
  return py::module_::import("edgekern._arrays").attr(make)(kName, argument, py::handle(value));
}

/// 0 for None, which is the package's setting.
long threads_of(const py::object& given) {
  if (given.is_none()) return 0;
  const auto count =
      py::reinterpret_steal<py::object>(PyBool_Check(given.ptr()) ? nullptr : PyNumber_Index(given.ptr()));
  PyErr_Clear();
  int overflow = 0;
  const long value = count ? PyLong_AsLongAndOverflow(count.ptr(), &overflow) : 0;
  if (overflow > 0) return kMaxThreads;
  if (value >= 1) return value;
  fail(Code::kValue,
       std::string(kName) + ": num_threads must be an integer of at least 1, got " + std::string(py::repr(given)));
}

PyObject* run_general(const Args& args) {
  const auto given = [&args](Arg which, const py::object& missing) {
    PyObject* const value = args.values[which];
    return value == nullptr ? missing : py::reinterpret_borrow<py::object>(value);
  };
  py::object b = given(kB, {}), out = given(kOut, py::none());
  if (!PyObject_TypeCheck(b.ptr(), g_known.packed)) b = array_of("as_array", "b", b.ptr());
  const py::object a = array_of("as_array", "a", args.values[kA]);
  const py::object wanted = given(kAZeroPoint, py::int_(0));
  const auto zero_point = py::reinterpret_steal<py::object>(PyNumber_Index(wanted.ptr()));
  if (!zero_point) {
    PyErr_Clear();
    fail(Code::kType, std::string(kName) + ": a_zero_point must be an integer, got " + Py_TYPE(wanted.ptr())->tp_name);
  }
  long value = 0;
  if (!small_int(zero_point.ptr(), 0, &value) || value < INT32_MIN || value > INT32_MAX) {
    fail(Code::kValue,
         std::string(kName) + ": a_zero_point must lie in the 8 bits of a, got " + std::string(py::str(zero_point)));
  }
  const long count = threads_of(given(kNumThreads, py::none()));
  const py::object target = out.is_none() ? out : array_of("written_array", "out", out.ptr());
  py::object b_zero_point = given(kBZeroPoint, py::int_(0));
  if (!PyLong_Check(b_zero_point.ptr())) b_zero_point = array_of("lent", "b_zero_point", b_zero_point.ptr());
  py::object c = py::handle(g_general)(a, b, zero_point, b_zero_point, target, "", std::min(count, long{kMaxThreads}));
  return (out.is_none() ? c : out).release().ptr();
}

PyObject* matmul_integer(PyObject*, PyObject* const* given, Py_ssize_t num_positional, PyObject* keywords) {
  try {
    Args args;
    const bool parsed = parse_fast(g_names, kNumPositional, given, num_positional, keywords, args.values);
    if (!parsed || args.values[kA] == nullptr || args.values[kB] == nullptr) {
      args = parse_any(given, num_positional, keywords);
    }
    PyObject* const result = run_fast(args);
    return result != nullptr ? result : run_general(args);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc& error) {
    set_no_memory(error);
  }
  return nullptr;
}

}  // namespace

py::object plain_out(const char* function, PyObject* out, PyObject* descriptor, size_t m, size_t n, const void* x,
                     size_t x_bytes) {
  if (!is_given(out)) {
    if (n != 0 && m >= kAlignedFrom / sizeof(int32_t) / n) {
      const py::dtype dtype = py::reinterpret_borrow<py::dtype>(descriptor);
      return new_array(function, dtype, {static_cast<py::ssize_t>(m), static_cast<py::ssize_t>(n)});
    }
    Py_intptr_t shape[2] = {static_cast<Py_intptr_t>(m), static_cast<Py_intptr_t>(n)};
    Py_INCREF(descriptor);  // the call takes it
    PyObject* const c = py::detail::npy_api::get().PyArray_NewFromDescr_(g_known.array, descriptor, 2, shape, nullptr,
                                                                         nullptr, 0, nullptr);
    if (c == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(c);
  }
  const auto* array = plain_array(out, 2, py::detail::npy_api::NPY_ARRAY_WRITEABLE_);
  if (array == nullptr || array->descr != descriptor || usize(array->dimensions[0]) != m ||
      usize(array->dimensions[1]) != n) {
    return {};
  }
  const size_t bytes = usize(py::reinterpret_borrow<py::array>(out).nbytes());
  return overlap(array->data, bytes, x, x_bytes) ? py::object() : py::reinterpret_borrow<py::object>(out);
}

const Kernels* plain_kernels() {
  Isa isa = Isa::kScalar;
  return default_isa(&isa).ok() ? &kernels(isa) : nullptr;
}

void bind_fastcall(py::module_& m) {
  g_known.array = py::detail::npy_api::get().PyArray_Type_;
  g_known.packed = reinterpret_cast<PyTypeObject*>(py::object(m.attr("PackedWeights")).release().ptr());
  g_known.u8 = py::dtype::of<uint8_t>().release().ptr();
  g_known.s8 = py::dtype::of<int8_t>().release().ptr();
  g_known.i32 = py::dtype::of<int32_t>().release().ptr();
  g_known.f32 = py::dtype::of<float>().release().ptr();
  for (int i = 0; i < kNumArgs; ++i) g_names[i] = PyUnicode_InternFromString(kNames[i]);
  g_general = py::object(m.attr("matmul_integer")).release().ptr();
  static PyMethodDef definition = {kName, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&matmul_integer)),
                                   METH_FASTCALL | METH_KEYWORDS, kDoc};
  m.attr("public_matmul_integer") = py::reinterpret_steal<py::object>(
      PyCFunction_NewEx(&definition, m.ptr(), py::str("edgekern").ptr()));  // edgekern.matmul_integer is this function
}

}  // namespace ek
