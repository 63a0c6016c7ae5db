// The parts of _core, one function a file.
#pragma once

#include <pybind11/pybind11.h>

namespace ek {

/// The ordinary metaclass, for classes without static properties: stubs can name it, pybind11's own they cannot.
inline pybind11::metaclass plain_type() { return pybind11::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)); }

/// Only the core makes objects of `cls`: one from the type itself, or from its __new__, would have no value.
inline void made_by_core(pybind11::handle cls) {
  reinterpret_cast<PyTypeObject*>(cls.ptr())->tp_new = [](PyTypeObject* type, PyObject*, PyObject*) -> PyObject* {
    return PyErr_Format(PyExc_TypeError, "%s: has no constructor; functions of edgekern make it", type->tp_name);
  };
  PyType_Modified(reinterpret_cast<PyTypeObject*>(cls.ptr()));
}

void bind_cpu(pybind11::module_& m);
void bind_pack(pybind11::module_& m);
void bind_gemm(pybind11::module_& m);
void bind_fastcall(pybind11::module_& m);
void bind_linear(pybind11::module_& m);
void bind_fast_linear(pybind11::module_& m);
void bind_int4(pybind11::module_& m);
void bind_probes(pybind11::module_& m);
void bind_elementwise(pybind11::module_& m);
void bind_calibration(pybind11::module_& m);
void bind_kvcache(pybind11::module_& m);
void bind_transformer(pybind11::module_& m);
void bind_program(pybind11::module_& m);
void bind_container(pybind11::module_& m);
void bind_blobs(pybind11::module_& m);
void bind_memory(pybind11::module_& m);
void bind_pool(pybind11::module_& m);
void bind_session(pybind11::module_& m);
void bind_lender(pybind11::module_& m);
void bind_decoder(pybind11::module_& m);

}  // namespace ek
