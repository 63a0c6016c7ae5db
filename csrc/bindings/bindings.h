// The parts of _core, one function a file.
#pragma once

#include <pybind11/pybind11.h>

namespace ek {

/// The ordinary metaclass, for classes without static properties: stubs can name it, pybind11's own they cannot.
inline pybind11::metaclass plain_type() { return pybind11::metaclass(reinterpret_cast<PyObject*>(&PyType_Type)); }

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
void bind_decoder(pybind11::module_& m);

}  // namespace ek
