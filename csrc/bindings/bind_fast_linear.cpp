// edgekern.linear: a builtin before the Python function of that name, which takes as long as a small product. The fast
// lane takes plain C-contiguous arrays, 8-bit weights, and what they usually come with; the function gets the rest.
#include <array>
#include <cmath>
#include <string>

#include "bindings/bindings.h"
#include "bindings/fastcall.h"
#include "bindings/linear_call.h"
#include "threads/pool.h"

namespace ek {
namespace {

constexpr const char* kSignature =
    "linear($module, x, w, *, bias=None, activation=None, residual=None, x_scale=None, x_zero_point=0, y_scale=None, "
    "y_zero_point=0, x_quantization=None, out_dtype=None, out=None, num_threads=None)\n--\n\n";
constexpr const char* kNames[] = {"x",
                                  "w",
                                  "bias",
                                  "activation",
                                  "residual",
                                  "x_scale",
                                  "x_zero_point",
                                  "y_scale",
                                  "y_zero_point",
                                  "x_quantization",
                                  "out_dtype",
                                  "out",
                                  "num_threads"};
constexpr int kNumArgs = 13, kNumPositional = 2;
enum Arg {
  kX,
  kW,
  kBias,
  kActivation,
  kResidual,
  kXScale,
  kXZeroPoint,
  kYScale,
  kYZeroPoint,
  kXQuantization,
  kOutDtype,
  kOut,
  kNumThreads
};

PyObject* g_names[kNumArgs];
PyObject* g_general;  // the Python function

/// None, or a clamp or a curve by name; swiglu and pairs have more rules.
bool plain_activation(PyObject* value, LinearOptions* o) {
  constexpr float kInfinity = HUGE_VALF;
  struct Named {
    const char* name;
    Activation activation;
    float lo, hi;
  };
  constexpr Named kNamed[] = {{"relu", Activation::kClamp, 0.0f, kInfinity},
                              {"relu6", Activation::kClamp, 0.0f, 6.0f},
                              {"gelu", Activation::kGelu, 0.0f, 0.0f},
                              {"gelu_tanh", Activation::kGeluTanh, 0.0f, 0.0f},
                              {"silu", Activation::kSilu, 0.0f, 0.0f}};
  o->lo = -kInfinity;
  o->hi = kInfinity;
  if (!is_given(value)) return true;
  if (!PyUnicode_CheckExact(value)) return false;
  for (const Named& named : kNamed) {
    if (PyUnicode_CompareWithASCIIString(value, named.name) != 0) continue;
    o->activation = named.activation;
    o->lo = named.lo;
    o->hi = named.hi;
    return true;
  }
  return false;
}

/// Nothing, or a scale that is one.
bool plain_scale(PyObject* value, std::optional<float>* scale) {
  if (!is_given(value)) return true;
  if (!PyFloat_Check(value)) return false;
  *scale = static_cast<float>(PyFloat_AS_DOUBLE(value));
  return std::isfinite(**scale) && **scale > 0;
}

bool plain_zero_point(PyObject* value, Sign sign, int32_t* zero_point) {
  const long lowest = sign == Sign::kU8 ? 0 : -128;
  long given = 0;
  if (!small_int(value, 0, &given) || given < lowest || given > lowest + 255) return false;
  *zero_point = static_cast<int32_t>(given);
  return true;
}

/// A new reference to the result; null without an exception: this call is not for the fast lane.
PyObject* run_fast(PyObject* const (&values)[kNumArgs]) {
  if (values[kX] == nullptr || values[kW] == nullptr) return nullptr;
  if (is_given(values[kResidual]) || is_given(values[kXQuantization]) || is_given(values[kOutDtype])) return nullptr;
  const auto* x = plain_array(values[kX], 2);
  LinearCall call;
  LinearOptions o;
  call.w = plain_weights(values[kW]);
  long threads = 0;
  if (x == nullptr || call.w == nullptr || call.w->scale.empty() || !plain_activation(values[kActivation], &o) ||
      !plain_scale(values[kXScale], &o.x_scale) || !plain_scale(values[kYScale], &o.y_scale) ||
      !thread_count(values[kNumThreads], &threads)) {
    return nullptr;
  }
  const bool dynamic = !o.x_scale;
  if (dynamic ? x->descr != g_known.f32 || o.y_scale : x->descr != g_known.u8 && x->descr != g_known.s8) return nullptr;
  call.x_sign = x->descr == g_known.s8 ? Sign::kS8 : Sign::kU8;
  if (!plain_zero_point(values[kXZeroPoint], call.x_sign, &o.x_zero_point) ||
      !plain_zero_point(values[kYZeroPoint], Sign::kU8, &o.y_zero_point)) {
    return nullptr;
  }
  if ((dynamic && o.x_zero_point != 0) || (!o.y_scale && o.y_zero_point != 0)) return nullptr;
  const size_t k = usize(x->dimensions[1]), n = call.w->shape.n;
  call.m = usize(x->dimensions[0]);
  call.ldx = k * (dynamic ? sizeof(float) : 1);
  call.x = x->data;
  if (k != call.w->shape.k_per_tap || k > kMaxDepth) return nullptr;
  const py::detail::PyArray_Proxy* bias = nullptr;
  if (is_given(values[kBias])) {
    bias = plain_array(values[kBias], 1);
    if (bias == nullptr || bias->descr != g_known.f32 || usize(bias->dimensions[0]) != n) return nullptr;
    call.bias = reinterpret_cast<const float*>(bias->data);
  }
  const Kernels* const table = plain_kernels();
  if (table == nullptr) return nullptr;
  call.rt = {table, static_cast<int>(threads)};
  o.kind = o.y_scale ? OutKind::kQuantized : OutKind::kFloat32;
  py::object y =
      plain_out("linear", values[kOut], o.y_scale ? g_known.u8 : g_known.f32, call.m, n, call.x, call.m * call.ldx);
  if (!y) return nullptr;
  call.y = py::detail::array_proxy(y.ptr())->data;
  const size_t y_bytes = call.m * n * (o.y_scale ? 1 : sizeof(float));
  if (call.bias != nullptr && overlap(call.y, y_bytes, call.bias, n * sizeof(float))) return nullptr;
  run_linear(call, o);
  return y.release().ptr();
}

PyObject* fast_linear(PyObject*, PyObject* const* given, Py_ssize_t num_positional, PyObject* keywords) {
  try {
    PyObject* values[kNumArgs] = {};
    if (parse_fast(g_names, kNumPositional, given, num_positional, keywords, values)) {
      if (PyObject* const result = run_fast(values); result != nullptr) return result;
    }
    return PyObject_Vectorcall(g_general, given, static_cast<size_t>(num_positional), keywords);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::bad_alloc& error) {
    set_no_memory(error);
  }
  return nullptr;
}

}  // namespace

void bind_fast_linear(py::module_& m) {
  for (int i = 0; i < kNumArgs; ++i) g_names[i] = PyUnicode_InternFromString(kNames[i]);
  // A decorator: the builtin has the function's words, and calls it where the fast lane ends.
  m.def(
      "fast_linear",
      [m](const py::function& general) {
        static const std::string doc = kSignature + std::string(py::str(general.doc()));
        static PyMethodDef definition = {"linear",
                                         reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(&fast_linear)),
                                         METH_FASTCALL | METH_KEYWORDS, doc.c_str()};
        g_general = py::object(general).release().ptr();
        return py::reinterpret_steal<py::object>(PyCFunction_NewEx(&definition, m.ptr(), py::str("edgekern").ptr()));
      },
      py::arg("general"));
}

}  // namespace ek
