// edgekern._core: a table of contents, and the mapping of errors.
#include "base/memory_limit.h"
#include "bindings/bindings.h"
#include "bindings/errors.h"
#include "edgekern/edgekern.h"

namespace ek {

namespace py = pybind11;

void throw_if_error(const Status& status) {
  const char* name = nullptr;
  switch (status.code()) {
    case Code::kOk:
      return;
    case Code::kNoMemory:
      name = "MemoryBudgetError";
      break;
    case Code::kType:
      name = "ArgumentTypeError";
      break;
    case Code::kValue:
      name = "ArgumentValueError";
      break;
    case Code::kCorrupt:
      name = "ArtifactError";
      break;
    case Code::kRewind:
      name = "KVRewindError";
      break;
    case Code::kForked:
      name = "ForkError";
      break;
    case Code::kUnsupportedIsa:
      name = "UnsupportedIsaError";
      break;
  }
  PyErr_SetString(py::module_::import("edgekern.errors").attr(name).ptr(), status.message().c_str());
  throw py::error_already_set();
}

void set_no_memory(const std::bad_alloc& error) {
  const auto* const sized = dynamic_cast<const NoMemory*>(&error);
  const std::string message = std::string("edgekern: ") + (sized == nullptr ? "no memory is left" : sized->what());
  PyErr_SetString(py::module_::import("edgekern.errors").attr("MemoryBudgetError").ptr(), message.c_str());
}

namespace {

/// Only calling a class makes an object of it. pybind11 leaves the value to __init__; an object from __new__ alone, or
/// of a subclass whose __init__ forgets its parent's, would have one in memory that was never written, or none. Python
/// itself refuses a __new__ whose function is not the one that it was looked up for.
void seal_classes(py::module_& m) {
  auto* const base = reinterpret_cast<PyTypeObject*>(py::detail::get_internals().instance_base);
  for (const auto& [name, value] : py::reinterpret_borrow<py::dict>(m.attr("__dict__"))) {
    auto* const type = reinterpret_cast<PyTypeObject*>(value.ptr());
    if (!PyType_Check(value.ptr()) || !PyType_IsSubtype(type, base)) continue;
    if (type->tp_new == base->tp_new) {
      type->tp_new = [](PyTypeObject* cls, PyObject*, PyObject*) { return py::detail::make_new_instance(cls); };
    }
    type->tp_flags &= ~Py_TPFLAGS_BASETYPE;
    PyType_Modified(type);
  }
}

}  // namespace
}  // namespace ek

// pybind11's entry point waits for ever for the GIL of a second interpreter, so ours stands before it.
#define PyInit__core pybind11_entry_point
PYBIND11_MODULE(_core, m) {
  m.doc() = "The C++ core of edgekern. Private: use edgekern's public names.";
  m.attr("__version__") = EDGEKERN_VERSION;
  pybind11::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(std::move(thrown));
    } catch (const ek::Refusal& refusal) {
      try {
        ek::throw_if_error(refusal.status);
      } catch (pybind11::error_already_set& error) {
        error.restore();
      }
    } catch (const std::bad_alloc& error) {
      ek::set_no_memory(error);
    }
  });
  ek::bind_cpu(m);
  ek::bind_pack(m);
  ek::bind_gemm(m);
  ek::bind_fastcall(m);
  ek::bind_linear(m);
  ek::bind_fast_linear(m);
  ek::bind_int4(m);
  ek::bind_probes(m);
  ek::bind_elementwise(m);
  ek::bind_calibration(m);
  ek::bind_kvcache(m);
  ek::bind_transformer(m);
  ek::bind_program(m);
  ek::bind_container(m);
  ek::bind_blobs(m);
  ek::bind_memory(m);
  ek::bind_pool(m);
  ek::bind_session(m);
  ek::bind_lender(m);
  ek::bind_decoder(m);
  ek::seal_classes(m);
  m.attr("_C_API") = pybind11::capsule(edgekern_get_api(EDGEKERN_ABI_VERSION), EDGEKERN_CAPSULE);
}
#undef PyInit__core

PyMODINIT_FUNC PyInit__core() {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) return pybind11_entry_point();
  PyErr_SetString(PyExc_ImportError,
                  "edgekern: cannot be imported in a sub-interpreter, as NumPy and pybind11 cannot; use the main "
                  "interpreter's threads, or a process");
  return nullptr;
}
